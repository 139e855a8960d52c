/*
 * setup.c
 *		The doors from SQL to what only the extension's owner may do.
 *
 * enable() and its like may be called by the owner of the table concerned, but write
 * to the registry, the log's tables and the events, which are not his.  So each is a
 * C function that runs as its caller, checks him, and then has a function of the same
 * name with the suffix "_apply" do the work as the extension's owner.  Nobody else can
 * execute those.
 *
 * While one runs, the log's guards let it through (sau_objects_enter_internal()).
 */
#include "postgres.h"

#include "access/relation.h"
#include "access/transam.h"
#include "access/xact.h"
#include "catalog/catalog.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "parser/parse_func.h"
#include "softaudit.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* Refuse what is no table of the user's, with the reason. */
static void
check_target(Oid relid)
{
	char		relkind = get_rel_relkind(relid);
	char	   *name = get_rel_name(relid);

	if (name == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid)));
	if (!sau_compat_owns_relation(relid, GetUserId()))
		aclcheck_error(ACLCHECK_NOT_OWNER, get_relkind_objtype(relkind), name);
	if (relkind != RELKIND_RELATION && relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a table", name),
				 errhint("softaudit works on tables and partitioned tables, not on views, foreign tables or sequences.")));
	if (IsCatalogNamespace(get_rel_namespace(relid)) ||
		IsToastNamespace(get_rel_namespace(relid)) || relid < FirstNormalObjectId)
		ereport(ERROR,
				(errcode(ERRCODE_INSUFFICIENT_PRIVILEGE),
				 errmsg("\"%s\" is a system catalog", name),
				 errhint("Choose a table of your own.")));
	if (get_rel_persistence(relid) == RELPERSISTENCE_TEMP)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a temporary table", name),
				 errhint("Its rows end with the session; there is nothing to keep of them.")));
	if (get_rel_namespace(relid) == sau_objects_schema(false))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" belongs to softaudit itself", name),
				 errhint("Choose a table outside the schema \"%s\".", SAU_SCHEMA)));
	if (get_rel_relispartition(relid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is a partition", name),
				 errhint("Call the function for the partitioned table; it covers all partitions, present and future.")));
}

/*
 * The body of every function whose first argument is a table and which only the
 * table's owner may call: check, lock the table, and hand all arguments on to
 * "<own name>_apply".  The lock is the strongest that will be needed, since to ask for
 * a stronger one later could deadlock.
 */
static Datum
owner_call(FunctionCallInfo fcinfo, LOCKMODE lockmode)
{
	StringInfoData sql;
	Oid		   *types;
	Datum	   *values = palloc(PG_NARGS() * sizeof(Datum));
	char	   *nulls = palloc(PG_NARGS() + 1);
	int			nargs;
	Oid			relid;
	Oid			save_caller;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the table must not be NULL"),
				 errhint("Name it, for example 'public.users'.")));
	relid = PG_GETARG_OID(0);
	check_target(relid);
	LockRelationOid(relid, lockmode);
	check_target(relid);

	(void) get_func_signature(fcinfo->flinfo->fn_oid, &types, &nargs);
	initStringInfo(&sql);
	/* names of ours need no quotes, and quote_all_identifiers would put them before the suffix */
	appendStringInfo(&sql, "SELECT %s.%s_apply(", SAU_SCHEMA, get_func_name(fcinfo->flinfo->fn_oid));
	for (int i = 0; i < nargs; i++)
	{
		appendStringInfo(&sql, "%s$%d", i > 0 ? ", " : "", i + 1);
		values[i] = fcinfo->args[i].value;
		nulls[i] = fcinfo->args[i].isnull ? 'n' : ' ';
	}
	appendStringInfoChar(&sql, ')');
	save_caller = sau_owner_set_caller(GetUserId());
	PG_TRY();
	{
		sau_owner_run(sql.data, nargs, types, values, nulls);
	}
	PG_FINALLY();
	{
		(void) sau_owner_set_caller(save_caller);
	}
	PG_END_TRY();
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(softaudit_owner_call);

/* owner_call() for what makes or replaces triggers: writers wait, readers do not. */
Datum
softaudit_owner_call(PG_FUNCTION_ARGS)
{
	return owner_call(fcinfo, ShareRowExclusiveLock);
}

PG_FUNCTION_INFO_V1(softaudit_enable);

/*
 * softaudit.enable(): owner_call(), which adds a column and replaces constraints where it
 * makes a table soft-deleted, and locks readers out for that moment.  What needs no lock
 * on the table, the log and its partitions, is made before.
 */
Datum
softaudit_enable(PG_FUNCTION_ARGS)
{
	Oid			types[4] = {REGCLASSOID, INTERVALOID, INTERVALOID, NAMEOID};
	Datum		values[4];
	char		nulls[4];
	bool		becomes = false;

	if (!PG_ARGISNULL(0))
	{
		static const int args[4] = {0, 8, 9, 10};	/* target, partition_by, keep_log, log_group */

		check_target(PG_GETARG_OID(0));
		for (int i = 0; i < 4; i++)
		{
			values[i] = fcinfo->args[args[i]].value;
			nulls[i] = PG_ARGISNULL(args[i]) ? 'n' : ' ';
		}
		(void) sau_owner_run("SELECT softaudit.prepare_enable($1, $2, $3, $4)", 4, types, values, nulls);
		types[1] = BOOLOID;
		values[1] = fcinfo->args[1].value;
		nulls[1] = PG_ARGISNULL(1) ? 'n' : ' ';
		becomes = sau_owner_run("SELECT softaudit.becomes_soft_deleted($1, $2)", 2, types, values, nulls) == 1;
	}
	return owner_call(fcinfo, becomes ? AccessExclusiveLock : ShareRowExclusiveLock);
}

PG_FUNCTION_INFO_V1(softaudit_owner_call_exclusive);

/* owner_call() for what drops triggers, for which PostgreSQL locks readers out, too. */
Datum
softaudit_owner_call_exclusive(PG_FUNCTION_ARGS)
{
	return owner_call(fcinfo, AccessExclusiveLock);
}

PG_FUNCTION_INFO_V1(softaudit_check_top_level);

/*
 * softaudit.check_top_level(what text): raise active_sql_transaction inside a
 * transaction block, where a procedure could not commit its steps.
 */
Datum
softaudit_check_top_level(PG_FUNCTION_ARGS)
{
	if (IsTransactionBlock() || IsSubTransaction())
		ereport(ERROR,
				(errcode(ERRCODE_ACTIVE_SQL_TRANSACTION),
				 errmsg("%s cannot run inside a transaction block", text_to_cstring(PG_GETARG_TEXT_PP(0))),
				 errhint("It commits after each step: call it on its own, outside BEGIN and COMMIT.")));
	PG_RETURN_VOID();
}

PG_FUNCTION_INFO_V1(softaudit_identity);

/* softaudit.identity(target regclass): what the capture trigger's arguments tell a table by. */
Datum
softaudit_identity(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(sau_entry_identity(PG_GETARG_OID(0))));
}

PG_FUNCTION_INFO_V1(softaudit_next_event_id);

/* softaudit.next_event_id(): the next id of softaudit.events. */
Datum
softaudit_next_event_id(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(sau_objects_nextval("event_id_seq"));
}

PG_FUNCTION_INFO_V1(softaudit_is_internal);

/* softaudit.is_internal(): is a function of ours at work that may change the log? */
Datum
softaudit_is_internal(PG_FUNCTION_ARGS)
{
	PG_RETURN_BOOL(sau_objects_is_internal());
}

PG_FUNCTION_INFO_V1(softaudit_actor);

/* softaudit.actor(): who acts, as the log would say it. */
Datum
softaudit_actor(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(sau_actor_name()));
}

PG_FUNCTION_INFO_V1(softaudit_session_user_name);

/* softaudit.session_user_name(): the session user, as the log says it. */
Datum
softaudit_session_user_name(PG_FUNCTION_ARGS)
{
	PG_RETURN_TEXT_P(cstring_to_text(sau_actor_session_user()));
}

PG_FUNCTION_INFO_V1(softaudit_trigger_args);

/*
 * softaudit.trigger_args(target regclass): the arguments of a table's capture trigger;
 * NULL if it has none.
 */
Datum
softaudit_trigger_args(PG_FUNCTION_ARGS)
{
	Relation	relation = relation_open(PG_GETARG_OID(0), AccessShareLock);
	Trigger    *trigger = sau_registry_trigger(relation);
	Datum	   *args;
	int			n;

	if (trigger == NULL)
	{
		relation_close(relation, AccessShareLock);
		PG_RETURN_NULL();
	}
	n = trigger->tgnargs;
	args = palloc(Max(n, 1) * sizeof(Datum));
	for (int i = 0; i < n; i++)
		args[i] = CStringGetTextDatum(trigger->tgargs[i]);
	relation_close(relation, AccessShareLock);
	PG_RETURN_ARRAYTYPE_P(construct_array(args, n, TEXTOID, -1, false, TYPALIGN_INT));
}

PG_FUNCTION_INFO_V1(softaudit_guard);

/*
 * softaudit.guard(): the statement trigger that keeps the log append-only.
 */
Datum
softaudit_guard(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	const char *verb;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("softaudit.guard() was not called by the trigger manager")));
	if (sau_objects_is_internal())
		return PointerGetDatum(NULL);
	verb = TRIGGER_FIRED_BY_INSERT(data->tg_event) ? "INSERT" :
		TRIGGER_FIRED_BY_UPDATE(data->tg_event) ? "UPDATE" :
		TRIGGER_FIRED_BY_DELETE(data->tg_event) ? "DELETE" : "TRUNCATE";
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("%s is refused: \"%s\" is append-only", verb,
					RelationGetRelationName(data->tg_relation)),
			 errhint("Rows come from audited changes and go with retention. A restore of data may load rows under session_replication_role = replica.")));
}
