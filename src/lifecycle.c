/*
 * lifecycle.c
 *		What the life cycle (purge, expiry, erasure, retention) needs of C.
 *
 * Its procedures commit after each step, so they run as whoever called them.  A step is
 * a function that hands its arguments on to "<own name>_apply", which runs as the
 * extension's owner and asks softaudit.caller() for whom.  What touches rows of a
 * user's table runs as that table's owner, who can do no more than that: his triggers
 * and index expressions are his code.
 */
#include "postgres.h"

#include <sys/resource.h>

#include "access/genam.h"
#include "access/relation.h"
#include "catalog/heap.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "executor/spi.h"
#include "fmgr.h"
#include "miscadmin.h"
#include "portability/instr_time.h"
#include "softaudit.h"
#include "storage/latch.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/guc.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/wait_event.h"

/*
 * What a physical DELETE is called in the log, and the ids of the tables that it is so for:
 * what users' triggers delete elsewhere is a DELETE.  A negative id has no image kept.
 */
static SauOperation removal = SAU_DELETE;
static const int32 *removal_tables = NULL;
static int	n_removal_tables = 0;

/* The search_path that the session had when it called us: what users' triggers go by. */
static char *session_path = NULL;

static bool
is_removal_table(int32 id)
{
	for (int i = 0; i < n_removal_tables; i++)
		if (removal_tables[i] == id)
			return true;
	return false;
}

SauOperation
sau_lifecycle_removal(int32 table_id)
{
	return is_removal_table(table_id) || is_removal_table(-table_id) ? removal : SAU_DELETE;
}

/* Is the image kept of a row that a removal takes from a table? */
bool
sau_lifecycle_keeps_image(int32 table_id)
{
	return removal == SAU_PURGE && is_removal_table(table_id);
}

/* Run "<own name>_apply" with the same arguments as the extension's owner.  It checks the caller. */
static Datum
owner_call(FunctionCallInfo fcinfo)
{
	StringInfoData sql;
	Oid		   *types;
	Datum	   *values = palloc(PG_NARGS() * sizeof(Datum));
	char	   *nulls = palloc(PG_NARGS() + 1);
	int			nargs;
	Datum		result = 0;
	bool		isnull = true;
	char	   *save_path = session_path;
	Oid			save_caller;

	(void) get_func_signature(fcinfo->flinfo->fn_oid, &types, &nargs);
	initStringInfo(&sql);
	appendStringInfo(&sql, "SELECT %s.%s_apply(", SAU_SCHEMA, get_func_name(fcinfo->flinfo->fn_oid));
	for (int i = 0; i < nargs; i++)
	{
		appendStringInfo(&sql, "%s$%d", i > 0 ? ", " : "", i + 1);
		values[i] = fcinfo->args[i].value;
		nulls[i] = fcinfo->args[i].isnull ? 'n' : ' ';
	}
	appendStringInfoChar(&sql, ')');
	/* a trigger of a user may call us amid a call of somebody else */
	save_caller = sau_owner_set_caller(GetUserId());
	PG_TRY();
	{
		if (!sau_objects_is_internal())
			session_path = pstrdup(namespace_search_path);
		result = sau_owner_query(sql.data, nargs, types, values, nulls, &isnull);
	}
	PG_FINALLY();
	{
		session_path = save_path;
		(void) sau_owner_set_caller(save_caller);
	}
	PG_END_TRY();
	if (isnull)
		PG_RETURN_NULL();
	PG_RETURN_DATUM(result);
}

PG_FUNCTION_INFO_V1(softaudit_lifecycle_call);

/* The body of the steps that delete no rows of users. */
Datum
softaudit_lifecycle_call(PG_FUNCTION_ARGS)
{
	return owner_call(fcinfo);
}

PG_FUNCTION_INFO_V1(softaudit_lifecycle_delete);

/*
 * The body of those that do.  What deferred triggers wait for a commit would fire as whoever
 * commits, so there are to be none: what waits already fires now, as the caller.
 */
Datum
softaudit_lifecycle_delete(PG_FUNCTION_ARGS)
{
	SPI_connect();
	SPI_execute("SET CONSTRAINTS ALL IMMEDIATE", false, 0);
	SPI_finish();
	return owner_call(fcinfo);
}

/* ---- batches that make room where the processors are busy ---- */

/* At most this of a wait is put down to one involuntary switch: the rest was for a disk or a lock. */
#define SWITCH_WAIT_US	10000

/* What a run owes to others, in microseconds. */
static int64 pause_run = 0;
static double pause_owed = 0;

/* Pay it: nothing is locked yet. */
static void
pay_pause(void)
{
	instr_time	start;

	INSTR_TIME_SET_CURRENT(start);
	while (pause_owed >= 1000)
	{
		instr_time	passed;
		double		owed = pause_owed;

		(void) WaitLatch(MyLatch, WL_LATCH_SET | WL_TIMEOUT | WL_EXIT_ON_PM_DEATH, (long) (owed / 1000), PG_WAIT_EXTENSION);
		ResetLatch(MyLatch);
		CHECK_FOR_INTERRUPTS();
		INSTR_TIME_SET_CURRENT(passed);
		INSTR_TIME_SUBTRACT(passed, start);
		INSTR_TIME_SET_CURRENT(start);
		pause_owed = owed - INSTR_TIME_GET_MICROSEC(passed);
	}
}

static double
used_us(const struct rusage *usage)
{
	return (usage->ru_utime.tv_sec + usage->ru_stime.tv_sec) * 1e6 + usage->ru_utime.tv_usec + usage->ru_stime.tv_usec;
}

PG_FUNCTION_INFO_V1(softaudit_lifecycle_batch);

/*
 * The body of the steps of a run, whose first argument is its number.  A batch that was taken off its
 * processor was so for others who wanted it: the next one waits for softaudit.purge_pause times
 * as long as that took.  Where nobody waits for a processor there are no pauses.
 */
Datum
softaudit_lifecycle_batch(PG_FUNCTION_ARGS)
{
	struct rusage before;
	struct rusage after;
	instr_time	start;
	instr_time	took;
	Datum		result;
	int64		run = PG_ARGISNULL(0) ? 0 : PG_GETARG_INT64(0);
	double		used;
	double		waited;

	if (run != pause_run)
		pause_owed = 0;
	pause_run = run;
	pay_pause();

	INSTR_TIME_SET_CURRENT(start);
	getrusage(RUSAGE_SELF, &before);
	result = softaudit_lifecycle_delete(fcinfo);
	getrusage(RUSAGE_SELF, &after);
	INSTR_TIME_SET_CURRENT(took);
	INSTR_TIME_SUBTRACT(took, start);

	/* a quarter of its own time is what it waits anywhere */
	used = used_us(&after) - used_us(&before);
	waited = Min(INSTR_TIME_GET_MICROSEC(took) - used, (double) (after.ru_nivcsw - before.ru_nivcsw) * SWITCH_WAIT_US) - used / 4;
	pause_owed = Max(pause_owed, 0) + Max(waited, 0) * sau_guc_purge_pause;
	return result;
}

PG_FUNCTION_INFO_V1(softaudit_lifecycle_query);

/*
 * softaudit.lifecycle_query(target regclass, command text, operation text, along
 * integer[], rows tid[]): run a command of ours on a table's rows as its owner, unfiltered; a
 * DELETE deletes, and is logged under the name of the operation for the tables of
 * softaudit.removal_tables().  The rows are its $1.
 * Returns the first column of the first row as text.
 *
 * What reads does so under the settings of images, so that values which it hands on as text
 * are read back as they were; what deletes leaves the caller's settings to the users' triggers.
 * Nothing can be deferred within: at the commit it would run as whoever calls us.
 */
Datum
softaudit_lifecycle_query(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	char	   *command = text_to_cstring(PG_GETARG_TEXT_PP(1));
	char	   *operation = PG_ARGISNULL(2) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(2));
	MemoryContext cxt = CurrentMemoryContext;
	SauOperation save_removal = removal;
	const char *save_text = sau_exempt_own_text;
	const int32 *save_tables = removal_tables;
	int			save_n_tables = n_removal_tables;
	Oid			owner;
	Oid			save_user;
	int			save_context;
	int			save_internal;
	int			save_nest;
	text	   *result = NULL;

	if (!sau_objects_is_internal())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("softaudit.lifecycle_query() is for functions of softaudit")));
	owner = sau_compat_relation_owner(relid);
	GetUserIdAndSecContext(&save_user, &save_context);
	save_internal = sau_objects_suspend_internal();
	/* from here on whatever raises an error leaves all as it was: somebody may catch it */
	PG_TRY();
	{
		int			ret;

		SetUserIdAndSecContext(owner, save_context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION | SECURITY_NOFORCE_RLS);
		save_nest = NewGUCNestLevel();
		if (operation)
		{
			removal = strcmp(operation, "ERASE") == 0 ? SAU_ERASE : SAU_PURGE;
			removal_tables = NULL;
			n_removal_tables = 0;
			if (!PG_ARGISNULL(3))
			{
				ArrayType  *along = PG_GETARG_ARRAYTYPE_P(3);

				removal_tables = (const int32 *) ARR_DATA_PTR(along);
				n_removal_tables = ArrayGetNItems(ARR_NDIM(along), ARR_DIMS(along));
			}
			if (session_path)
				(void) set_config_option("search_path", session_path, PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
		}
		else
			(void) sau_pins_set_all();
		SPI_connect();
		sau_exempt_own_text = command;
		if (PG_ARGISNULL(4))
			ret = SPI_execute(command, false, 0);
		else
		{
			Oid			type = TIDARRAYOID;
			Datum		rows = PG_GETARG_DATUM(4);

			ret = SPI_execute_with_args(command, 1, &type, &rows, NULL, false, 0);
		}
		if (ret < 0)
			elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(ret));
		if (SPI_tuptable && SPI_processed > 0)
		{
			char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

			if (value)
			{
				MemoryContext old = MemoryContextSwitchTo(cxt);

				result = cstring_to_text(value);
				MemoryContextSwitchTo(old);
			}
		}
		SPI_finish();
		AtEOXact_GUC(false, save_nest);
	}
	PG_FINALLY();
	{
		sau_exempt_own_text = save_text;
		removal = save_removal;
		removal_tables = save_tables;
		n_removal_tables = save_n_tables;
		sau_objects_resume_internal(save_internal);
		SetUserIdAndSecContext(save_user, save_context);
	}
	PG_END_TRY();
	if (result == NULL)
		PG_RETURN_NULL();
	PG_RETURN_TEXT_P(result);
}

/* ---- rows that a run has found and not come to yet ---- */

static MemoryContext found_cxt = NULL;
static int64 found_run = 0;
static ArrayType *found = NULL;
static int	found_next = 0;

PG_FUNCTION_INFO_V1(softaudit_rows_found);

/* softaudit.rows_found(run bigint, tids tid[]): keep what a run has found, for this session. */
Datum
softaudit_rows_found(PG_FUNCTION_ARGS)
{
	MemoryContext old;

	if (found_cxt == NULL)
		found_cxt = AllocSetContextCreate(TopMemoryContext, "softaudit purge", ALLOCSET_DEFAULT_SIZES);
	MemoryContextReset(found_cxt);
	found = NULL;
	old = MemoryContextSwitchTo(found_cxt);
	found = PG_GETARG_ARRAYTYPE_P_COPY(1);
	MemoryContextSwitchTo(old);
	found_run = PG_GETARG_INT64(0);
	found_next = 0;
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(softaudit_next_rows);

/*
 * softaudit.next_rows(run bigint, batch integer): the next of them, NULL if none is left.
 * A step that failed is not repeated for the same rows.
 */
Datum
softaudit_next_rows(PG_FUNCTION_ARGS)
{
	int			n = PG_GETARG_INT32(1);
	int			left = found == NULL || found_run != PG_GETARG_INT64(0) ? 0 :
		ArrayGetNItems(ARR_NDIM(found), ARR_DIMS(found)) - found_next;
	Datum	   *datums;
	ItemPointer tids;

	if (left <= 0)
		PG_RETURN_NULL();
	n = Min(n, left);
	datums = palloc(n * sizeof(Datum));
	/* six bytes each, without padding between them */
	tids = (ItemPointer) ARR_DATA_PTR(found) + found_next;
	for (int i = 0; i < n; i++)
		datums[i] = PointerGetDatum(tids + i);
	found_next += n;
	PG_RETURN_ARRAYTYPE_P(construct_array(datums, n, TIDOID, sizeof(ItemPointerData), false, TYPALIGN_SHORT));
}

PG_FUNCTION_INFO_V1(softaudit_remove_statistics);

/*
 * softaudit.remove_statistics(target regclass, attnum smallint): remove what ANALYZE keeps
 * of a column; with 0 of all columns, and the extended statistics of the table, too.
 */
Datum
softaudit_remove_statistics(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	AttrNumber	attnum = PG_GETARG_INT16(1);

	if (!sau_objects_is_internal())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("softaudit.remove_statistics() is for functions of softaudit")));
	RemoveStatistics(relid, attnum);
	if (attnum == 0)
	{
		Relation	relation = relation_open(relid, ShareUpdateExclusiveLock);
		ListCell   *lc;

		foreach(lc, RelationGetStatExtList(relation))
		{
			RemoveStatisticsDataById(lfirst_oid(lc), false);
			RemoveStatisticsDataById(lfirst_oid(lc), true);
		}
		relation_close(relation, NoLock);
	}
	PG_RETURN_VOID();
}
