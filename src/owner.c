/*
 * owner.c
 *		SQL of ours, run as the extension's owner, or as a table's owner.
 *
 * Callers of the first are functions that run as whoever called them and have checked
 * him.  What could run code of a table's owner (an expression or a predicate of his, planned
 * or read) is run by the second: never as the extension's owner, who is a superuser.
 */
#include "postgres.h"

#include "catalog/pg_type.h"
#include "fmgr.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "softaudit.h"
#include "utils/builtins.h"
#include "utils/guc.h"

/* Who called the function of ours that is at work, whoever it runs as. */
static Oid	caller = InvalidOid;

/* Set it; returns the one before, which is to be set again in the end, after an error, too. */
Oid
sau_owner_set_caller(Oid roleid)
{
	Oid			before = caller;

	caller = roleid;
	return before;
}

PG_FUNCTION_INFO_V1(softaudit_caller);

/* softaudit.caller(): the role that called enable() or its like, within it. */
Datum
softaudit_caller(PG_FUNCTION_ARGS)
{
	if (!sau_objects_is_internal())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("softaudit.caller() is for functions of softaudit")));
	PG_RETURN_OID(caller);
}

/*
 * Run one statement of ours as the extension's owner, with the log's guards open.
 * The first column of the first row is returned, copied to the caller's memory, and its
 * type where that is asked for.
 */
static Datum
owner_query(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls, Oid *rettype, bool *isnull)
{
	Oid			save_user;
	int			save_context;
	bool		save_quote = quote_all_identifiers;
	bool		save_strings;
	Datum		result = 0;

	*isnull = true;
	*rettype = InvalidOid;
	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(sau_objects_owner(), save_context | SECURITY_LOCAL_USERID_CHANGE);
	sau_objects_enter_internal();
	/* names are compared, stored and shown as they are written without it, patterns written for the standard's strings */
	quote_all_identifiers = false;
	save_strings = sau_compat_standard_strings(true);
	PG_TRY();
	{
		int			ret;

		SPI_connect();
		ret = SPI_execute_with_args(sql, nargs, types, values, nulls, false, 0);
		if (ret < 0)
			elog(ERROR, "SPI_execute_with_args failed: %s", SPI_result_code_string(ret));
		if (ret == SPI_OK_SELECT && SPI_processed > 0)
		{
			TupleDesc	desc = SPI_tuptable->tupdesc;

			*rettype = SPI_gettypeid(desc, 1);
			result = SPI_getbinval(SPI_tuptable->vals[0], desc, 1, isnull);
			if (!*isnull && *rettype != VOIDOID)
				result = SPI_datumTransfer(result, TupleDescAttr(desc, 0)->attbyval, TupleDescAttr(desc, 0)->attlen);
		}
		SPI_finish();
	}
	PG_FINALLY();
	{
		quote_all_identifiers = save_quote;
		(void) sau_compat_standard_strings(save_strings);
		sau_objects_leave_internal();
		SetUserIdAndSecContext(save_user, save_context);
	}
	PG_END_TRY();
	return result;
}

/* The same, for its value. */
Datum
sau_owner_query(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls, bool *isnull)
{
	Oid			rettype;

	return owner_query(sql, nargs, types, values, nulls, &rettype, isnull);
}

/* The same, for what it does: an int8 is returned, else 0. */
int64
sau_owner_run(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls)
{
	Oid			rettype;
	bool		isnull;
	Datum		result = owner_query(sql, nargs, types, values, nulls, &rettype, &isnull);

	return rettype == INT8OID && !isnull ? DatumGetInt64(result) : 0;
}


PG_FUNCTION_INFO_V1(softaudit_execute_as_owner);

/*
 * softaudit.execute_as_owner(target regclass, command text, all_rows boolean): run a command of
 * ours on a table as its owner, who can do no more than that (SECURITY_RESTRICTED_OPERATION),
 * with the log's guards closed; all_rows: past row security that is forced on him, as
 * foreign keys are checked.  An int8 in the first column is returned, else 0.
 */
Datum
softaudit_execute_as_owner(PG_FUNCTION_ARGS)
{
	Oid			relid = PG_GETARG_OID(0);
	char	   *command = text_to_cstring(PG_GETARG_TEXT_PP(1));
	Oid			save_user;
	int			save_context;
	int			save_internal;
	int			save_nest;
	int64		result = 0;

	if (!sau_objects_is_internal())
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("softaudit.execute_as_owner() is for functions of softaudit")));
	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(sau_compat_relation_owner(relid),
						   save_context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_RESTRICTED_OPERATION |
						   (PG_GETARG_BOOL(2) ? SECURITY_NOFORCE_RLS : 0));
	save_nest = NewGUCNestLevel();
	save_internal = sau_objects_suspend_internal();
	PG_TRY();
	{
		int			ret;

		SPI_connect();
		ret = SPI_execute(command, false, 0);
		if (ret < 0)
			elog(ERROR, "SPI_execute failed: %s", SPI_result_code_string(ret));
		if (ret == SPI_OK_SELECT && SPI_processed > 0 && SPI_gettypeid(SPI_tuptable->tupdesc, 1) == INT8OID)
		{
			bool		isnull;

			result = DatumGetInt64(SPI_getbinval(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1, &isnull));
		}
		SPI_finish();
		AtEOXact_GUC(false, save_nest);
	}
	PG_FINALLY();
	{
		sau_objects_resume_internal(save_internal);
		SetUserIdAndSecContext(save_user, save_context);
	}
	PG_END_TRY();
	PG_RETURN_INT64(result);
}
