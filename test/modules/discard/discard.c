/*
 * discard.c
 *		For test/valgrind --discard-caches: a library under which every statement throws the caches away, for a while.
 *
 * debug_discard_caches = 1 makes a statement hundreds of times slower, and those that run thousands of others
 * would take hours.  Here each part of a statement (its planning, start, run, end; a utility command) has it on
 * for the first discard.budget milliseconds, and after that for single slices, at random moments: one nested
 * part in discard.sparse begins one of a tenth of the budget, twenty at most.  It is on between statements, too,
 * where a transaction commits.
 */
#include "postgres.h"

#include "common/pg_prng.h"
#include "executor/executor.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "optimizer/planner.h"
#include "tcop/utility.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/timeout.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

static planner_hook_type prev_planner = NULL;
static ExecutorStart_hook_type prev_start = NULL;
static ExecutorRun_hook_type prev_run = NULL;
static ExecutorFinish_hook_type prev_finish = NULL;
static ExecutorEnd_hook_type prev_end = NULL;
static ProcessUtility_hook_type prev_utility = NULL;

static int	budget = 200;
static int	sparse = 50;
static int	depth = 0;
static int	slices = 0;
static TimeoutId timer;
static bool is_registered = false;

/* In a signal handler: only the one store. */
static void
over(void)
{
	debug_discard_caches = 0;
}

static void
begin(int ms)
{
	debug_discard_caches = 0;
	/* not where timeouts do not work yet */
	if (!IsNormalProcessingMode() || ms <= 0)
		return;
	if (!is_registered)
	{
		timer = RegisterTimeout(USER_TIMEOUT, over);
		is_registered = true;
	}
	debug_discard_caches = 1;
	enable_timeout_after(timer, ms);
}

static void
enter(void)
{
	if (depth++ == 0)
	{
		slices = 0;
		begin(budget);
	}
	else if (debug_discard_caches == 0 && slices < 20 && pg_prng_uint32(&pg_global_prng_state) % sparse == 0)
	{
		slices++;
		begin(budget / 10);
	}
}

#define WITHIN(call) \
	do { \
		enter(); \
		PG_TRY(); \
		{ \
			call; \
		} \
		PG_FINALLY(); \
		{ \
			depth--; \
		} \
		PG_END_TRY(); \
	} while (0)

static PlannedStmt *
discard_planner(Query *parse, const char *query_string, int cursor_options, ParamListInfo params)
{
	PlannedStmt *result;

	WITHIN(result = prev_planner ? prev_planner(parse, query_string, cursor_options, params)
		   : standard_planner(parse, query_string, cursor_options, params));
	return result;
}

static void
discard_start(QueryDesc *desc, int eflags)
{
	WITHIN(prev_start ? prev_start(desc, eflags) : standard_ExecutorStart(desc, eflags));
}

static void
discard_run(QueryDesc *desc, ScanDirection direction, uint64 count, bool once)
{
	WITHIN(prev_run ? prev_run(desc, direction, count, once) : standard_ExecutorRun(desc, direction, count, once));
}

static void
discard_finish(QueryDesc *desc)
{
	WITHIN(prev_finish ? prev_finish(desc) : standard_ExecutorFinish(desc));
}

static void
discard_end(QueryDesc *desc)
{
	WITHIN(prev_end ? prev_end(desc) : standard_ExecutorEnd(desc));
}

static void
discard_utility(PlannedStmt *stmt, const char *query_string, bool read_only, ProcessUtilityContext context,
				ParamListInfo params, QueryEnvironment *env, DestReceiver *dest, QueryCompletion *qc)
{
	WITHIN((prev_utility ? prev_utility : standard_ProcessUtility) (stmt, query_string, read_only, context, params, env, dest, qc));
}

void
_PG_init(void)
{
	DefineCustomIntVariable("discard.budget", "Milliseconds for which each part of a statement discards the caches.", NULL,
							&budget, 200, 0, 3600000, PGC_SUSET, 0, NULL, NULL, NULL);
	DefineCustomIntVariable("discard.sparse", "Of so many nested parts one begins to discard again.", NULL,
							&sparse, 50, 1, 1000000, PGC_SUSET, 0, NULL, NULL, NULL);
	prev_planner = planner_hook;
	planner_hook = discard_planner;
	prev_start = ExecutorStart_hook;
	ExecutorStart_hook = discard_start;
	prev_run = ExecutorRun_hook;
	ExecutorRun_hook = discard_run;
	prev_finish = ExecutorFinish_hook;
	ExecutorFinish_hook = discard_finish;
	prev_end = ExecutorEnd_hook;
	ExecutorEnd_hook = discard_end;
	prev_utility = ProcessUtility_hook;
	ProcessUtility_hook = discard_utility;
}
