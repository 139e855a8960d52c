/*
 * module.c
 *		Where PostgreSQL enters the library: load, hooks, transaction callbacks.
 *
 * The library works from wherever it is loaded: preloaded, or by the first trigger
 * that fires.  In the latter case the statement that loads it has begun without our
 * hooks; its rows are flushed by the end of the executor run or by the commit.
 */
#include "postgres.h"

#include "access/xact.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "nodes/parsenodes.h"
#include "softaudit.h"
#include "tcop/utility.h"
#include "utils/lsyscache.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

/* what each hook is chained to: another library's hook, or PostgreSQL's own function */
static ExecutorStart_hook_type prev_ExecutorStart;
static ExecutorRun_hook_type prev_ExecutorRun;
static ExecutorFinish_hook_type prev_ExecutorFinish;
static ExecutorEnd_hook_type prev_ExecutorEnd;
static ProcessUtility_hook_type prev_ProcessUtility;

/* Whether a plan reads one of our relations: what waits must then be in the log first. */
static bool
reads_log(PlannedStmt *plan)
{
	Oid			nsp = sau_objects_schema(true);
	ListCell   *lc;

	foreach(lc, plan->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		if (rte->rtekind == RTE_RELATION && get_rel_namespace(rte->relid) == nsp)
			return true;
	}
	return false;
}

/* Whether a plan writes: what only reads queues no triggers and meets no unique index. */
static inline bool
writes(QueryDesc *queryDesc)
{
	return queryDesc->operation != CMD_SELECT || queryDesc->plannedstmt->hasModifyingCTE;
}

/*
 * The executor's hooks are called for every statement of a session, so each leaves
 * to what it is chained to by a jump where there is nothing to do.
 */
static void
softaudit_ExecutorStart(QueryDesc *queryDesc, int eflags)
{
	sau_log_activity++;
	/* what runs within a parallel plan may read the log, and could not write to it then */
	if (unlikely(sau_log_waiting > 0) &&
		(queryDesc->plannedstmt->parallelModeNeeded || reads_log(queryDesc->plannedstmt)))
		sau_log_flush();
	prev_ExecutorStart(queryDesc, eflags);
}

static pg_noinline void
run_writing(SAU_RUN_PARAMS)
{
	SauConflict conflict;

	sau_conflict_begin(&conflict, queryDesc->estate);
	prev_ExecutorRun(SAU_RUN_ARGS);
	sau_conflict_end(&conflict);
}

static void
softaudit_ExecutorRun(SAU_RUN_PARAMS)
{
	if (writes(queryDesc))
		run_writing(SAU_RUN_ARGS);
	else
		prev_ExecutorRun(SAU_RUN_ARGS);
}

/* AFTER triggers fire in here: this is the statement as capture sees it. */
static pg_noinline void
finish_writing(QueryDesc *queryDesc)
{
	int			depth = sau_log_statement_begin();
	SauConflict conflict;

	PG_TRY();
	{
		/* data-modifying CTEs that nobody read are run in here */
		sau_conflict_begin(&conflict, queryDesc->estate);
		prev_ExecutorFinish(queryDesc);
		sau_conflict_end(&conflict);
		sau_fkey_statement_end();
		sau_capture_statement_end();
		sau_log_statement_flush();
	}
	PG_FINALLY();
	{
		sau_log_statement_end(depth);
	}
	PG_END_TRY();
}

static void
softaudit_ExecutorFinish(QueryDesc *queryDesc)
{
	if (writes(queryDesc))
		finish_writing(queryDesc);
	else
		prev_ExecutorFinish(queryDesc);
}

static void
softaudit_ExecutorEnd(QueryDesc *queryDesc)
{
	/* The statement that loaded the library: its triggers fired without our hooks. */
	if (sau_log_depth() == 0)
		sau_fkey_statement_end();
	if (unlikely(sau_log_waiting > 0) && sau_log_has_unhooked())
	{
		sau_capture_statement_end();
		sau_log_flush();
	}
	prev_ExecutorEnd(queryDesc);
}

/* A command that may fire triggers, or make and change relations. */
static pg_noinline void
run_command(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
			ProcessUtilityContext context, ParamListInfo params,
			QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	int			depth;
	int			filter_state;
	SauConflict conflict;

	pstmt = sau_exempt_utility_begin(pstmt, &filter_state);
	depth = sau_log_statement_begin();
	PG_TRY();
	{
		/* COPY writes, SET CONSTRAINTS checks */
		sau_conflict_begin(&conflict, NULL);
		prev_ProcessUtility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
		sau_conflict_end(&conflict);
		if (sau_log_waiting > 0 || IsTransactionState())
		{
			sau_fkey_statement_end();
			if (IsA(pstmt->utilityStmt, ConstraintsSetStmt))
				sau_fkey_set_constraints(((ConstraintsSetStmt *) pstmt->utilityStmt)->deferred);
			sau_capture_statement_end();
			sau_log_statement_flush();
		}
	}
	PG_FINALLY();
	{
		sau_log_statement_end(depth);
		sau_exempt_utility_end(filter_state);
	}
	PG_END_TRY();
}

static void
softaudit_ProcessUtility(PlannedStmt *pstmt, const char *queryString, bool readOnlyTree,
						 ProcessUtilityContext context, ParamListInfo params,
						 QueryEnvironment *queryEnv, DestReceiver *dest, QueryCompletion *qc)
{
	switch (nodeTag(pstmt->utilityStmt))
	{
		case T_TransactionStmt:

			/*
			 * What waits at the end of a transaction is the callback's: a failure there
			 * ends the transaction, and a ROLLBACK asks for none of it.  Rows that wait
			 * as a savepoint is set could be written again and again after it.
			 */
			if (((TransactionStmt *) pstmt->utilityStmt)->kind == TRANS_STMT_SAVEPOINT)
				sau_log_flush();
			break;
		case T_VariableSetStmt:
			sau_exempt_set_command((VariableSetStmt *) pstmt->utilityStmt);
			break;
			/* what fires no trigger by itself; a query in it passes through the other hooks */
		case T_ExecuteStmt:
		case T_FetchStmt:
		case T_PrepareStmt:
		case T_DeallocateStmt:
		case T_VariableShowStmt:
			break;
			/* what reads the log by commands of its own, which pass through the hooks */
		case T_DoStmt:
		case T_CallStmt:
			run_command(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
			return;
		default:
			/* A utility command may read the log in ways that no plan shows. */
			sau_log_flush();
			run_command(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
			return;
	}
	sau_log_activity++;
	prev_ProcessUtility(pstmt, queryString, readOnlyTree, context, params, queryEnv, dest, qc);
}

static void
xact_callback(XactEvent event, void *arg)
{
	switch (event)
	{
		case XACT_EVENT_PRE_COMMIT:
		case XACT_EVENT_PRE_PREPARE:
			sau_fkey_settle_deferred();
			sau_capture_statement_end();
			sau_log_flush();
			break;
		case XACT_EVENT_COMMIT:
		case XACT_EVENT_PREPARE:
		case XACT_EVENT_ABORT:
			sau_fkey_xact_end();
			sau_capture_xact_end();
			sau_marker_xact_end();
			sau_log_xact_end();
			sau_actor_xact_end(event == XACT_EVENT_COMMIT);
			sau_registry_xact_end();
			break;
		default:
			break;
	}
}

static void
subxact_callback(SubXactEvent event, SubTransactionId sub, SubTransactionId parent, void *arg)
{
	if (event == SUBXACT_EVENT_COMMIT_SUB || event == SUBXACT_EVENT_ABORT_SUB)
	{
		bool		committed = event == SUBXACT_EVENT_COMMIT_SUB;

		sau_fkey_subxact_end(committed, sub, parent);
		sau_capture_subxact_end(committed, sub, parent);
		sau_log_subxact_end(committed, sub, parent);
		sau_actor_subxact_end(committed, sub, parent);
	}
}

void
_PG_init(void)
{
	sau_guc_init();
	sau_actor_init();
	sau_registry_init();
	sau_partition_init();
	sau_append_init();
	sau_log_init();
	sau_marker_init();
	sau_filter_init();
	if (process_shared_preload_libraries_in_progress)
		sau_worker_init();

	prev_ExecutorStart = ExecutorStart_hook ? ExecutorStart_hook : standard_ExecutorStart;
	ExecutorStart_hook = softaudit_ExecutorStart;
	prev_ExecutorRun = ExecutorRun_hook ? ExecutorRun_hook : standard_ExecutorRun;
	ExecutorRun_hook = softaudit_ExecutorRun;
	prev_ExecutorFinish = ExecutorFinish_hook ? ExecutorFinish_hook : standard_ExecutorFinish;
	ExecutorFinish_hook = softaudit_ExecutorFinish;
	prev_ExecutorEnd = ExecutorEnd_hook ? ExecutorEnd_hook : standard_ExecutorEnd;
	ExecutorEnd_hook = softaudit_ExecutorEnd;
	prev_ProcessUtility = ProcessUtility_hook ? ProcessUtility_hook : standard_ProcessUtility;
	ProcessUtility_hook = softaudit_ProcessUtility;
	RegisterXactCallback(xact_callback, NULL);
	RegisterSubXactCallback(subxact_callback, NULL);
}
