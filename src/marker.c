/*
 * marker.c
 *		Which relations are soft-deleted, and by which column.
 *
 * Step of the path: the planner or a trigger meets a relation; this file says whether
 * its rows are marked rather than removed.
 *
 * The catalog is the truth: a statement trigger of ours on the table,
 * BEFORE DELETE OR UPDATE OF <column>, holds the column by its number, so that a rename
 * is followed and DROP COLUMN refused.  A partition has the row trigger that was cloned
 * from its root, and the column is found through its ancestors.  Whether a trigger is
 * enabled does not matter: DISABLE TRIGGER ALL must not bring deleted rows back.
 *
 * What was found is kept per backend; a relcache callback only marks it as stale.
 */
#include "postgres.h"

#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "miscadmin.h"
#include "softaudit.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/plancache.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/syscache.h"

static HTAB *markers = NULL;

/* The trigger function, and whether that was looked up since it may have changed. */
static Oid	mark_function = InvalidOid;
static bool mark_function_known = false;

/* How many answers are stale; they are cleared away when there are many. */
static int	stale = 0;

/* Counts what came in from other sessions: an answer that was overtaken is not kept. */
static uint64 messages = 0;

/* What plans that depend on us are found by; zero while there is none. */
static uint32 plan_hash = 0;

/* The same of statements with with_deleted() and with only_deleted(). */
static uint32 shown_hashes[2] = {0, 0};

/* The client's statement that loaded the library: it was planned without our hooks. */
static TimestampTz loaded_at = 0;

static TimestampTz last_stamp = 0;

/*
 * Statements with with_deleted() or only_deleted() are to be analyzed anew before they run again: their
 * trees do not name the table, so that PostgreSQL would have them keep the columns' types.
 */
void
sau_marker_forget_shown(void)
{
	for (int i = 0; i < lengthof(shown_hashes); i++)
		if (shown_hashes[i] != 0)
			CallSyscacheCallbacks(PROCOID, shown_hashes[i]);
}

static void
set_stale(SauMarker *marker)
{
	if (marker->valid)
		stale++;
	marker->valid = false;
	if (marker->is_shown)
	{
		marker->is_shown = false;
		sau_marker_forget_shown();
	}
}

static void
relcache_callback(Datum arg, Oid relid)
{
	SauMarker  *marker;

	messages++;
	if (markers == NULL)
		return;
	if (OidIsValid(relid))
	{
		marker = hash_search(markers, &relid, HASH_FIND, NULL);
		if (marker)
			set_stale(marker);
	}
	else
	{
		HASH_SEQ_STATUS seq;

		hash_seq_init(&seq, markers);
		while ((marker = hash_seq_search(&seq)) != NULL)
			set_stale(marker);
	}
}

/* A function or a schema came, went or was renamed: ours, perhaps. */
static void
syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	if (cacheid == PROCOID && hashvalue != 0 && plan_hash != 0 && hashvalue != plan_hash)
		return;
	messages++;
	mark_function_known = false;
}

/* Plans that were made under other settings are not to be used again. */
static void
visibility_changed(void)
{
	if (plan_hash != 0)
		CallSyscacheCallbacks(PROCOID, plan_hash);
}

/* Register the callbacks; called once when the library is loaded. */
void
sau_marker_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(PROCOID, syscache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, syscache_callback, (Datum) 0);
	sau_guc_visibility_changed = visibility_changed;
	loaded_at = GetCurrentStatementStartTimestamp();
	/* what this session planned before knew nothing of us */
	ResetPlanCache();
}

static oidvector *
no_arguments(void)
{
	oidvector  *args = palloc0(offsetof(oidvector, values));

	SET_VARSIZE(args, offsetof(oidvector, values));
	args->ndim = 1;
	args->elemtype = OIDOID;
	return args;
}

/* The OID of softaudit.mark(), or InvalidOid where the extension is not installed. */
Oid
sau_marker_function(void)
{
	uint64		before = messages;

	if (likely(mark_function_known))
		return mark_function;
	mark_function = InvalidOid;
	plan_hash = 0;
	if (OidIsValid(sau_objects_schema(true)))
	{
		oidvector  *args = no_arguments();

		mark_function = GetSysCacheOid3(PROCNAMEARGSNSP, Anum_pg_proc_oid,
										CStringGetDatum("mark"), PointerGetDatum(args),
										ObjectIdGetDatum(sau_objects_schema(true)));
		pfree(args);
		if (OidIsValid(mark_function))
			plan_hash = GetSysCacheHashValue1(PROCOID, ObjectIdGetDatum(mark_function));
	}
	/* not before: an error amid it (a lock timeout, a cancel) must not leave "none" as the answer */
	mark_function_known = before == messages;
	return mark_function;
}

/* What a plan that depends on the settings carries; see PlanInvalItem. */
uint32
sau_marker_plan_hash(void)
{
	return plan_hash;
}

/* The column that our statement trigger names on this very relation, or zero. */
static AttrNumber
marked_column(Relation relation, bool *has_guard)
{
	TriggerDesc *desc = relation->trigdesc;

	*has_guard = false;
	if (desc == NULL)
		return InvalidAttrNumber;
	for (int i = 0; i < desc->numtriggers; i++)
	{
		Trigger    *trigger = &desc->triggers[i];

		if (trigger->tgfoid != mark_function)
			continue;
		if (TRIGGER_FOR_ROW(trigger->tgtype))
			*has_guard = true;
		else if (TRIGGER_FOR_UPDATE(trigger->tgtype) && trigger->tgnattr == 1)
			return trigger->tgattr[0];
	}
	return InvalidAttrNumber;
}

static void
look_up(SauMarker *marker)
{
	Relation	relation;
	bool		has_guard;
	uint64		before = messages;

	marker->attno = InvalidAttrNumber;
	marker->root = InvalidOid;
	relation = RelationIdGetRelation(marker->relid);
	if (relation == NULL)
		return;
	marker->attno = marked_column(relation, &has_guard);
	if (marker->attno != InvalidAttrNumber)
		marker->root = marker->relid;
	else if (has_guard && relation->rd_rel->relispartition)
	{
		ListCell   *lc;

		foreach(lc, sau_ancestors_of(marker->relid))
		{
			Relation	ancestor = RelationIdGetRelation(lfirst_oid(lc));
			AttrNumber	attno;

			if (ancestor == NULL)
				continue;
			attno = marked_column(ancestor, &has_guard);
			if (attno != InvalidAttrNumber)
			{
				marker->root = lfirst_oid(lc);
				marker->attno = get_attnum(marker->relid,
										   NameStr(TupleDescAttr(RelationGetDescr(ancestor), attno - 1)->attname));
			}
			RelationClose(ancestor);
			if (marker->attno != InvalidAttrNumber)
				break;
		}
	}
	if (marker->attno != InvalidAttrNumber)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(relation), marker->attno - 1);

		marker->typid = att->atttypid;
		marker->typmod = att->atttypmod;
		/* a trigger that somebody made by hand, on a column that cannot mark */
		if (att->atttypid != TIMESTAMPTZOID && att->atttypid != TIMESTAMPOID)
			marker->attno = InvalidAttrNumber;
	}
	RelationClose(relation);
	/* as in sau_marker_function() */
	marker->valid = before == messages;
}

/*
 * What marks a relation's rows as deleted, or NULL if nothing does.  The caller holds
 * a lock on the relation.  The result is good until invalidation messages are taken in.
 */
const SauMarker *
sau_marker_get(Oid relid)
{
	SauMarker  *marker;
	bool		found;

	if (!OidIsValid(sau_marker_function()))
		return NULL;
	if (markers == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(Oid);
		ctl.entrysize = sizeof(SauMarker);
		markers = hash_create("softaudit markers", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	marker = hash_search(markers, &relid, HASH_ENTER, &found);
	if (!found)
		marker->valid = marker->is_shown = false;
	if (unlikely(!marker->valid))
		look_up(marker);
	return marker->attno != InvalidAttrNumber ? marker : NULL;
}

/* At the end of a transaction, when nobody holds an answer: forget those of tables that changed or went. */
void
sau_marker_xact_end(void)
{
	HASH_SEQ_STATUS seq;
	SauMarker  *marker;

	if (likely(stale < 256))
		return;
	stale = 0;
	hash_seq_init(&seq, markers);
	while ((marker = hash_seq_search(&seq)) != NULL)
		if (!marker->valid)
			hash_search(markers, &marker->relid, HASH_REMOVE, NULL);
}

/* A reference by with_deleted() or only_deleted() is planned: from now on it follows changes of the table. */
void
sau_marker_note_shown(Oid relid, Oid funcid, bool only)
{
	SauMarker  *marker = hash_search(markers, &relid, HASH_FIND, NULL);

	shown_hashes[only] = GetSysCacheHashValue1(PROCOID, ObjectIdGetDatum(funcid));
	if (marker)
		marker->is_shown = true;
}

static void
refuse_truncate(const char *table)
{
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("TRUNCATE is refused: table \"%s\" is soft-deleted", table),
			 errhint("TRUNCATE removes rows for good. Use DELETE, or set softaudit.hard_delete to on.")));
}

/*
 * TRUNCATE of a foreign table by itself: a trigger stops that of others (softaudit_mark()), and
 * PostgreSQL 15 makes none on foreign tables.  No lock but the one that TRUNCATE takes itself: who
 * waits for that with a lesser one in hand can be waited for.
 */
void
sau_marker_check_truncate(TruncateStmt *stmt)
{
	ListCell   *lc;

	if (sau_guc_hard_delete || !OidIsValid(sau_marker_function()))
		return;
	foreach(lc, stmt->relations)
	{
		Oid			relid = RangeVarGetRelid(lfirst_node(RangeVar, lc), NoLock, true);

		/* who may not TRUNCATE it is told so by PostgreSQL, and locks nothing */
		if (!OidIsValid(relid) || get_rel_relkind(relid) != RELKIND_FOREIGN_TABLE ||
			pg_class_aclcheck(relid, GetUserId(), ACL_TRUNCATE) != ACLCHECK_OK)
			continue;
		LockRelationOid(relid, AccessExclusiveLock);
		if (sau_marker_get(relid) != NULL)
			refuse_truncate(get_rel_name(relid));
	}
}

/* The stamp of a deletion: the clock, moved on so that no two in a session are the same. */
static TimestampTz
next_stamp(void)
{
	TimestampTz now = GetCurrentTimestamp();

	last_stamp = now > last_stamp ? now : last_stamp + 1;
	return last_stamp;
}

PG_FUNCTION_INFO_V1(softaudit_deletion_stamp);

/*
 * softaudit.deletion_stamp(): what a DELETE that begins now marks its rows with; each
 * call gives a later one.  As a timestamp, for a column of that type, it is in UTC.
 */
Datum
softaudit_deletion_stamp(PG_FUNCTION_ARGS)
{
	PG_RETURN_TIMESTAMPTZ(next_stamp());
}

PG_FUNCTION_INFO_V1(softaudit_mark);

/*
 * softaudit.mark(): the trigger that says that a table is soft-deleted, and stops what
 * would remove its rows behind our back.
 */
Datum
softaudit_mark(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	Datum		result;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("softaudit.mark() was not called by the trigger manager"),
				 errhint("Use softaudit.enable() to have a table soft-deleted.")));
	if (!TRIGGER_FIRED_BEFORE(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("softaudit.mark() must be fired BEFORE a change")));

	result = PointerGetDatum(TRIGGER_FIRED_FOR_ROW(data->tg_event) ? data->tg_trigtuple : NULL);
	/* what removes rows for good: who may, and the foreign keys of PostgreSQL itself */
	if (TRIGGER_FIRED_BY_UPDATE(data->tg_event) || TRIGGER_FIRED_BY_INSERT(data->tg_event) ||
		sau_guc_hard_delete || sau_objects_is_internal())
		return result;
	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		refuse_truncate(RelationGetRelationName(data->tg_relation));
	if (InNoForceRLSOperation())
		return result;
	/* a row that moves between partitions is deleted in one of them; this one was planned by us */
	if (TRIGGER_FIRED_FOR_ROW(data->tg_event) && loaded_at != GetCurrentStatementStartTimestamp())
		return result;
	ereport(ERROR,
			(errcode(ERRCODE_T_R_SERIALIZATION_FAILURE),
			 errmsg("table \"%s\" is soft-deleted, and this statement was planned before softaudit was loaded",
					RelationGetRelationName(data->tg_relation)),
			 errhint("Run the statement again: the library is loaded now. A new connection loads it by itself.")));
}
