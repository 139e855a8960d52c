/*
 * fkey.c
 *		Foreign keys at a soft delete and at a restore.
 *
 * Step of the path: rows of a table were marked as deleted, or the mark was taken away,
 * or a row was made to refer to another; this file does what the foreign keys declare.
 *
 * PostgreSQL's own triggers see a row that is still there and do nothing.  A row trigger
 * of ours notes which rows it was; when the statement ends they are dealt with all at
 * once: CASCADE first (which marks children with the stamp of their parent, level by
 * level), and when all levels are done, what may be refused: RESTRICT and NO ACTION, and
 * live rows that refer to deleted ones.  What is deferred waits for the commit.
 *
 * Races are settled as PostgreSQL settles them.  A soft delete locks its rows as a DELETE
 * would (FOR UPDATE, which an UPDATE of the column does not), so it waits for whoever holds
 * FOR KEY SHARE from a child's check, and the check waits for it.
 *
 * Children are looked for as the extension's owner, and changed as their own table's
 * owner, as ri_triggers.c does it.  Our queries are told by their first words, so that
 * the filter leaves them alone.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "softaudit.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/relcache.h"
#include "utils/rls.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

typedef enum RowKind
{
	ROWS_DELETED,				/* marked */
	ROWS_RESTORED,				/* not marked any more */
	ROWS_REFERRING				/* live, and inserted or given another key to refer to */
} RowKind;

/* Rows of one relation that one statement changed. */
typedef struct Batch
{
	struct Batch *next;
	Oid			relid;
	RowKind		kind;
	bool		is_acted_on;	/* cascades are done, checks are not */
	bool		is_deferred;	/* waits for the commit, or SET CONSTRAINTS */
	int			depth;
	SubTransactionId sub;
	int			n;
	int			cap;
	ItemPointerData *tids;		/* as of the change; see latest_tids() */
	TimestampTz *stamps;		/* of restored rows: the one they had */
} Batch;

/* A foreign key, as its catalog row says it. */
typedef struct Key
{
	Oid			oid;
	char	   *name;
	Oid			child;
	Oid			parent;
	char		on_delete;
	bool		is_deferrable;
	bool		is_deferred;
	int			n;
	AttrNumber	child_atts[INDEX_MAX_KEYS];
	AttrNumber	parent_atts[INDEX_MAX_KEYS];
	Oid			operators[INDEX_MAX_KEYS];	/* parent's = child's */
} Key;

typedef enum QueryKind
{
	QUERY_LOCK,
	QUERY_REFERRED,
	QUERY_CASCADE,
	QUERY_CASCADE_RESTORE,
	QUERY_DEAD_PARENT,
	QUERY_LOCK_PARENT,
	QUERY_MARK,
	QUERY_UNMARK
} QueryKind;

typedef struct PlanKey
{
	Oid			relid;			/* the relation that the rows are in */
	Oid			constraint;
	QueryKind	kind;
} PlanKey;

typedef struct PlanEntry
{
	PlanKey		key;
	SPIPlanPtr	plan;
} PlanEntry;

static Batch *batches = NULL;	/* newest first; in TopTransactionContext */
static HTAB *plans = NULL;

/* The depth of the statement whose cascades are under way, with all their levels; or -1. */
static int	acting_depth = -1;

static int64 followed = 0;		/* rows that cascades brought back */

/* SET CONSTRAINTS in this transaction: 'd'eferred, 'i'mmediate, or nothing said. */
static char constraints_set = 0;

/* ---- noting rows ---- */

static Batch *
open_batch(Oid relid, RowKind kind)
{
	int			depth = sau_log_depth();
	SubTransactionId sub = GetCurrentSubTransactionId();
	Batch	   *batch;

	for (batch = batches; batch; batch = batch->next)
		if (batch->relid == relid && batch->kind == kind && batch->depth == depth &&
			batch->sub == sub && !batch->is_acted_on)
			return batch;
	batch = MemoryContextAllocZero(TopTransactionContext, sizeof(Batch));
	batch->relid = relid;
	batch->kind = kind;
	batch->depth = depth;
	batch->sub = sub;
	batch->next = batches;
	batches = batch;
	return batch;
}

static void
note(Relation relation, RowKind kind, TupleTableSlot *slot, TimestampTz stamp)
{
	Batch	   *batch = open_batch(RelationGetRelid(relation), kind);

	if (batch->n >= batch->cap)
	{
		batch->cap = Max(16, batch->cap * 2);
		if (batch->tids == NULL)
		{
			batch->tids = MemoryContextAlloc(TopTransactionContext, batch->cap * sizeof(ItemPointerData));
			batch->stamps = MemoryContextAlloc(TopTransactionContext, batch->cap * sizeof(TimestampTz));
		}
		else
		{
			batch->tids = repalloc_huge(batch->tids, batch->cap * sizeof(ItemPointerData));
			batch->stamps = repalloc_huge(batch->stamps, batch->cap * sizeof(TimestampTz));
		}
	}
	batch->tids[batch->n] = slot->tts_tid;
	batch->stamps[batch->n++] = stamp;
}

PG_FUNCTION_INFO_V1(softaudit_follow_keys);

/*
 * softaudit.follow_keys(): the row trigger of tables that refer to soft-deleted tables, or
 * are ones and are referred to; it fires after an INSERT, and after an UPDATE of the
 * columns concerned.
 */
Datum
softaudit_follow_keys(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	const SauMarker *marker;
	bool		is_live = true;
	bool		was_live = true;

	if (!CALLED_AS_TRIGGER(fcinfo) || !TRIGGER_FIRED_AFTER(data->tg_event) ||
		!TRIGGER_FIRED_FOR_ROW(data->tg_event) || TRIGGER_FIRED_BY_DELETE(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("softaudit.follow_keys() must be fired AFTER an INSERT or UPDATE, FOR EACH ROW"),
				 errhint("softaudit.enable() attaches it where it is needed.")));

	marker = sau_marker_get(RelationGetRelid(data->tg_relation));
	if (TRIGGER_FIRED_BY_INSERT(data->tg_event))
	{
		if (marker == NULL || slot_attisnull(data->tg_trigslot, marker->attno))
			note(data->tg_relation, ROWS_REFERRING, data->tg_trigslot, 0);
		return PointerGetDatum(NULL);
	}
	if (marker)
	{
		was_live = slot_attisnull(data->tg_trigslot, marker->attno);
		is_live = slot_attisnull(data->tg_newslot, marker->attno);
	}
	if (was_live && !is_live)
		note(data->tg_relation, ROWS_DELETED, data->tg_newslot, 0);
	else if (!was_live && is_live)
	{
		bool		isnull;

		note(data->tg_relation, ROWS_RESTORED, data->tg_newslot,
			 DatumGetTimestampTz(slot_getattr(data->tg_trigslot, marker->attno, &isnull)));
	}
	else if (is_live)
		note(data->tg_relation, ROWS_REFERRING, data->tg_newslot, 0);
	return PointerGetDatum(NULL);
}

/* ---- foreign keys of a relation ---- */

static bool
read_key(Oid constraint, Key *key)
{
	HeapTuple	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint));
	Form_pg_constraint form;
	Oid			pp[INDEX_MAX_KEYS];
	Oid			ff[INDEX_MAX_KEYS];
	AttrNumber	set_cols[INDEX_MAX_KEYS];
	int			n_set_cols;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_constraint) GETSTRUCT(tuple);
	if (form->contype != CONSTRAINT_FOREIGN)
	{
		ReleaseSysCache(tuple);
		return false;
	}
	key->oid = constraint;
	key->name = pstrdup(NameStr(form->conname));
	key->child = form->conrelid;
	key->parent = form->confrelid;
	key->on_delete = form->confdeltype;
	key->is_deferrable = form->condeferrable;
	key->is_deferred = form->condeferred;
	DeconstructFkConstraintRow(tuple, &key->n, key->child_atts, key->parent_atts, key->operators,
							   pp, ff, &n_set_cols, set_cols);
	ReleaseSysCache(tuple);
	return true;
}

/*
 * The foreign keys that a relation is in, as the parent or as the child: those whose
 * triggers it has, which for a partition are its own.
 */
static List *
keys_of(Relation relation, int trigger_type)
{
	TriggerDesc *desc = relation->trigdesc;
	List	   *seen = NIL;
	List	   *keys = NIL;
	ListCell   *lc;

	for (int i = 0; desc && i < desc->numtriggers; i++)
		if (OidIsValid(desc->triggers[i].tgconstraint) &&
			RI_FKey_trigger_type(desc->triggers[i].tgfoid) == trigger_type)
			seen = list_append_unique_oid(seen, desc->triggers[i].tgconstraint);
	foreach(lc, seen)
	{
		Key		   *key = palloc0(sizeof(Key));

		if (read_key(lfirst_oid(lc), key))
			keys = lappend(keys, key);
	}
	return keys;
}

static bool
is_deferred_now(const Key *key)
{
	if (!key->is_deferrable)
		return false;
	return constraints_set == 0 ? key->is_deferred : constraints_set == 'd';
}

/* ---- queries ---- */

static char *
relation_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
}

static const char *
column_name(const char *alias, Oid relid, AttrNumber attno)
{
	return psprintf("%s.%s", alias, quote_identifier(get_attname(relid, attno, false)));
}

/* The condition that parent row "p" and child row "c" belong together. */
static void
append_join(StringInfo sql, const Key *key, Oid parent, Oid child)
{
	for (int i = 0; i < key->n; i++)
	{
		if (i > 0)
			appendStringInfoString(sql, " AND ");
		generate_operator_clause(sql,
								 column_name("p", parent, key->parent_atts[i]),
								 get_atttype(parent, key->parent_atts[i]),
								 key->operators[i],
								 column_name("c", child, key->child_atts[i]),
								 get_atttype(child, key->child_atts[i]));
	}
}

/* What of a key to show in a message, as text. */
static void
append_values(StringInfo sql, const char *alias, Oid relid, const AttrNumber *atts, int n)
{
	appendStringInfoString(sql, "pg_catalog.concat_ws(', '");
	for (int i = 0; i < n; i++)
		appendStringInfo(sql, ", %s", column_name(alias, relid, atts[i]));
	appendStringInfoChar(sql, ')');
}

static const char *
only(Oid relid)
{
	return get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE ? "" : "ONLY ";
}

/* A stamp, as a column's type wants it. */
static const char *
as_stamp(const char *expr, const SauMarker *marker)
{
	return marker->typid == TIMESTAMPOID ? psprintf("(%s AT TIME ZONE 'UTC')", expr) : expr;
}

static SPIPlanPtr
plan_for(QueryKind kind, Oid relid, const Key *key)
{
	PlanKey		plan_key;
	PlanEntry  *entry;
	bool		found;
	StringInfoData sql;
	Oid			types[2] = {TIDARRAYOID, TIMESTAMPTZARRAYOID};
	int			n_types = 1;
	const SauMarker *marker;
	SPIPlanPtr	plan;

	if (plans == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(PlanKey);
		ctl.entrysize = sizeof(PlanEntry);
		plans = hash_create("softaudit key queries", 32, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	memset(&plan_key, 0, sizeof(plan_key));
	plan_key.relid = relid;
	plan_key.constraint = key ? key->oid : InvalidOid;
	plan_key.kind = kind;
	entry = hash_search(plans, &plan_key, HASH_FIND, NULL);
	if (entry && entry->plan)
	{
		if (SPI_plan_is_valid(entry->plan))
			return entry->plan;
		SPI_freeplan(entry->plan);
		entry->plan = NULL;
	}

	initStringInfo(&sql);
	appendStringInfoString(&sql, SAU_KEY_QUERY);
	switch (kind)
	{
		case QUERY_LOCK:
			appendStringInfo(&sql, "SELECT 1 FROM ONLY %s p WHERE p.ctid OPERATOR(pg_catalog.=) ANY ($1) FOR UPDATE OF p",
							 relation_name(relid));
			break;
		case QUERY_REFERRED:
			appendStringInfoString(&sql, "SELECT ");
			append_values(&sql, "p", relid, key->parent_atts, key->n);
			appendStringInfo(&sql, " FROM ONLY %s p JOIN %s%s c ON ", relation_name(relid), only(key->child), relation_name(key->child));
			append_join(&sql, key, relid, key->child);
			appendStringInfoString(&sql, " WHERE p.ctid OPERATOR(pg_catalog.=) ANY ($1)");
			if ((marker = sau_marker_get(key->child)) != NULL)
				appendStringInfo(&sql, " AND %s IS NULL", column_name("c", key->child, marker->attno));
			appendStringInfoString(&sql, " LIMIT 1 FOR KEY SHARE OF c");
			break;
		case QUERY_CASCADE:
			marker = sau_marker_get(relid);
			appendStringInfo(&sql, "SELECT c.tableoid, c.ctid, %s FROM ONLY %s p JOIN %s%s c ON ",
							 column_name("p", relid, marker->attno), relation_name(relid), only(key->child), relation_name(key->child));
			append_join(&sql, key, relid, key->child);
			marker = sau_marker_get(key->child);
			appendStringInfo(&sql, " WHERE p.ctid OPERATOR(pg_catalog.=) ANY ($1) AND %s IS NULL FOR UPDATE OF c",
							 column_name("c", key->child, marker->attno));
			break;
		case QUERY_CASCADE_RESTORE:
			n_types = 2;
			appendStringInfo(&sql, "SELECT c.tableoid, c.ctid, u.s FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) u (t, s)"
							 " JOIN ONLY %s p ON p.ctid OPERATOR(pg_catalog.=) u.t JOIN %s%s c ON ",
							 relation_name(relid), only(key->child), relation_name(key->child));
			append_join(&sql, key, relid, key->child);
			marker = sau_marker_get(key->child);
			appendStringInfo(&sql, " WHERE %s OPERATOR(pg_catalog.=) %s FOR UPDATE OF c",
							 column_name("c", key->child, marker->attno), as_stamp("u.s", marker));
			break;
		case QUERY_DEAD_PARENT:
			marker = sau_marker_get(key->parent);
			appendStringInfoString(&sql, "SELECT ");
			append_values(&sql, "c", relid, key->child_atts, key->n);
			appendStringInfo(&sql, " FROM ONLY %s c JOIN %s%s p ON ", relation_name(relid), only(key->parent), relation_name(key->parent));
			append_join(&sql, key, key->parent, relid);
			appendStringInfo(&sql, " WHERE c.ctid OPERATOR(pg_catalog.=) ANY ($1) AND %s IS NOT NULL LIMIT 1",
							 column_name("p", key->parent, marker->attno));
			break;
		case QUERY_LOCK_PARENT:
			appendStringInfo(&sql, "SELECT 1 FROM ONLY %s c JOIN %s%s p ON ", relation_name(relid), only(key->parent), relation_name(key->parent));
			append_join(&sql, key, key->parent, relid);
			appendStringInfoString(&sql, " WHERE c.ctid OPERATOR(pg_catalog.=) ANY ($1) FOR KEY SHARE OF p");
			break;
		case QUERY_MARK:
			n_types = 2;
			marker = sau_marker_get(relid);
			appendStringInfo(&sql, "UPDATE ONLY %s c SET %s = %s FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) u (t, s)"
							 " WHERE c.ctid OPERATOR(pg_catalog.=) u.t AND %s IS NULL",
							 relation_name(relid), quote_identifier(get_attname(relid, marker->attno, false)),
							 as_stamp("u.s", marker), column_name("c", relid, marker->attno));
			break;
		case QUERY_UNMARK:
			marker = sau_marker_get(relid);
			appendStringInfo(&sql, "UPDATE ONLY %s c SET %s = NULL FROM pg_catalog.unnest($1) u (t)"
							 " WHERE c.ctid OPERATOR(pg_catalog.=) u.t",
							 relation_name(relid), quote_identifier(get_attname(relid, marker->attno, false)));
			break;
	}

	plan = SPI_prepare(sql.data, n_types, types);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	entry = hash_search(plans, &plan_key, HASH_ENTER, &found);
	entry->plan = plan;
	return plan;
}

/*
 * Run a query of ours as another role.  Under a snapshot of the whole transaction it sees
 * what was committed since, as ri_PerformCheck() does, so that nothing slips through.
 */
static void
run_as(Oid role, SPIPlanPtr plan, Datum *values, int expected)
{
	Oid			save_user;
	int			save_context;
	int			ret;
	Snapshot	test = InvalidSnapshot;
	Snapshot	crosscheck = InvalidSnapshot;

	if (IsolationUsesXactSnapshot())
	{
		CommandCounterIncrement();
		test = GetLatestSnapshot();
		crosscheck = GetTransactionSnapshot();
	}
	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(role, save_context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_NOFORCE_RLS);
	ret = SPI_execute_snapshot(plan, values, NULL, test, crosscheck, false, true, 0);
	SetUserIdAndSecContext(save_user, save_context);
	if (ret != expected)
		elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(ret));
}

static Datum
tid_array(const ItemPointerData *tids, int n)
{
	Datum	   *datums = palloc(n * sizeof(Datum));

	for (int i = 0; i < n; i++)
		datums[i] = PointerGetDatum(&tids[i]);
	return PointerGetDatum(construct_array(datums, n, TIDOID, sizeof(ItemPointerData), false, TYPALIGN_SHORT));
}

static Datum
stamp_array(const TimestampTz *stamps, int n)
{
	Datum	   *datums = palloc(n * sizeof(Datum));

	for (int i = 0; i < n; i++)
		datums[i] = TimestampTzGetDatum(stamps[i]);
	return PointerGetDatum(construct_array(datums, n, TIMESTAMPTZOID, sizeof(TimestampTz), true, TYPALIGN_DOUBLE));
}

/* Triggers may have changed a row again: find its newest version. */
static void
latest_tids(Relation relation, Batch *batch)
{
	Snapshot	snapshot;
	TableScanDesc scan;

	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = table_beginscan_tid(relation, snapshot);
	for (int i = 0; i < batch->n; i++)
		table_tuple_get_latest_tid(scan, &batch->tids[i]);
	table_endscan(scan);
	UnregisterSnapshot(snapshot);
}

/* ---- errors ---- */

static bool
may_show(Oid relid)
{
	return pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
		check_enable_rls(relid, InvalidOid, true) != RLS_ENABLED;
}

static char *
first_value(void)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

	return value ? value : "";
}

static char *
column_list(Oid relid, const AttrNumber *atts, int n)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < n; i++)
		appendStringInfo(&list, "%s%s", i > 0 ? ", " : "", get_attname(relid, atts[i], false));
	return list.data;
}

static void
refuse_referred(const Key *key, Oid relid, char *value)
{
	ereport(ERROR,
			(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
			 errmsg("update or delete on table \"%s\" violates foreign key constraint \"%s\" on table \"%s\"",
					get_rel_name(relid), key->name, get_rel_name(key->child)),
			 may_show(relid) ?
			 errdetail("Key (%s)=(%s) is still referenced from live rows of table \"%s\".",
					   column_list(relid, key->parent_atts, key->n), value, get_rel_name(key->child)) :
			 errdetail("Key is still referenced from live rows of table \"%s\".", get_rel_name(key->child))));
}

static void
refuse_dead_parent(const Key *key, Oid relid, char *value)
{
	ereport(ERROR,
			(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
			 errmsg("insert or update on table \"%s\" violates foreign key constraint \"%s\"",
					get_rel_name(relid), key->name),
			 may_show(relid) ?
			 errdetail("Key (%s)=(%s) is that of a deleted row of table \"%s\".",
					   column_list(relid, key->child_atts, key->n), value, get_rel_name(key->parent)) :
			 errdetail("Key is that of a deleted row of table \"%s\".", get_rel_name(key->parent)),
			 errhint("Restore the row of \"%s\" first, with softaudit.restore().", get_rel_name(key->parent))));
}

/* ---- what the keys declare ---- */

static void
check_referred(const Key *key, Batch *batch)
{
	Datum		values[1] = {tid_array(batch->tids, batch->n)};

	run_as(sau_registry_owner(), plan_for(QUERY_REFERRED, batch->relid, key), values, SPI_OK_SELECT);
	if (SPI_processed > 0)
		refuse_referred(key, batch->relid, first_value());
}

static void
check_parents(const Key *key, Batch *batch)
{
	Datum		values[1] = {tid_array(batch->tids, batch->n)};

	/*
	 * PostgreSQL's own check holds the parents already, unless it is yet to come or was not
	 * due.  The lock waits for who deletes one; what came of it only the next snapshot tells.
	 */
	if (batch->kind == ROWS_RESTORED || batch->is_deferred)
		run_as(sau_registry_owner(), plan_for(QUERY_LOCK_PARENT, batch->relid, key), values, SPI_OK_SELECT);
	run_as(sau_registry_owner(), plan_for(QUERY_DEAD_PARENT, batch->relid, key), values, SPI_OK_SELECT);
	if (SPI_processed > 0)
		refuse_dead_parent(key, batch->relid, first_value());
}

/* Mark the live children of rows that were deleted, or bring back those that went with them. */
static void
cascade(const Key *key, Batch *batch)
{
	bool		is_restore = batch->kind == ROWS_RESTORED;
	Datum		values[2];
	SPITupleTable *found;
	uint64		n;
	ItemPointerData *tids;
	TimestampTz *stamps;
	Oid		   *leaves;

	values[0] = tid_array(batch->tids, batch->n);
	values[1] = stamp_array(batch->stamps, batch->n);
	run_as(sau_registry_owner(), plan_for(is_restore ? QUERY_CASCADE_RESTORE : QUERY_CASCADE, batch->relid, key),
		   values, SPI_OK_SELECT);
	n = SPI_processed;
	found = SPI_tuptable;
	if (n == 0)
		return;
	leaves = palloc(n * sizeof(Oid));
	tids = palloc(n * sizeof(ItemPointerData));
	stamps = palloc(n * sizeof(TimestampTz));

	/* one statement for each partition that holds some of them */
	for (uint64 done = 0; done < n;)
	{
		Oid			leaf = InvalidOid;
		int			m = 0;

		for (uint64 i = 0; i < n; i++)
		{
			bool		isnull;
			Oid			here;

			if (done == 0)
				leaves[i] = DatumGetObjectId(SPI_getbinval(found->vals[i], found->tupdesc, 1, &isnull));
			here = leaves[i];
			if (!OidIsValid(here) || (OidIsValid(leaf) && here != leaf))
				continue;
			leaf = here;
			leaves[i] = InvalidOid;
			tids[m] = *(ItemPointer) DatumGetPointer(SPI_getbinval(found->vals[i], found->tupdesc, 2, &isnull));
			stamps[m++] = DatumGetTimestampTz(SPI_getbinval(found->vals[i], found->tupdesc, 3, &isnull));
		}
		done += m;
		values[0] = tid_array(tids, m);
		values[1] = stamp_array(stamps, m);
		run_as(sau_compat_relation_owner(leaf), plan_for(is_restore ? QUERY_UNMARK : QUERY_MARK, leaf, NULL), values, SPI_OK_UPDATE);
		if (is_restore)
			followed += SPI_processed;
	}
}

/* Lock rows that were deleted, and have cascades done. */
static void
act(Batch *batch, Relation relation)
{
	List	   *keys = keys_of(relation, RI_TRIGGER_PK);
	ListCell   *lc;

	if (keys == NIL || batch->kind == ROWS_REFERRING)
		return;
	if (batch->kind == ROWS_DELETED)
	{
		Datum		values[1] = {tid_array(batch->tids, batch->n)};

		run_as(sau_registry_owner(), plan_for(QUERY_LOCK, batch->relid, NULL), values, SPI_OK_SELECT);
	}
	foreach(lc, keys)
	{
		Key		   *key = lfirst(lc);

		if (key->on_delete == FKCONSTR_ACTION_CASCADE && sau_marker_get(key->child))
			cascade(key, batch);
	}
}

/* Check what may be refused.  Returns whether some of it is deferred and is to wait. */
static bool
check(Batch *batch, Relation relation, bool is_final)
{
	bool		waits = false;
	ListCell   *lc;

	foreach(lc, keys_of(relation, batch->kind == ROWS_DELETED ? RI_TRIGGER_PK : RI_TRIGGER_FK))
	{
		Key		   *key = lfirst(lc);

		if (batch->kind == ROWS_DELETED)
		{
			if (key->on_delete == FKCONSTR_ACTION_RESTRICT)
			{
				if (!batch->is_deferred)
					check_referred(key, batch);
				continue;
			}
			if (key->on_delete != FKCONSTR_ACTION_NOACTION)
				continue;
		}
		else if (sau_marker_get(key->parent) == NULL)
			continue;
		if (!is_final && is_deferred_now(key))
			waits = true;
		else if (batch->kind == ROWS_DELETED)
			check_referred(key, batch);
		else
			check_parents(key, batch);
	}
	return waits;
}

/* Do the next thing that a batch needs; false if it is done with. */
static bool
settle(Batch *batch, bool is_final)
{
	Relation	relation = table_open(batch->relid, AccessShareLock);
	bool		goes_on = true;

	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	latest_tids(relation, batch);
	if (!batch->is_acted_on)
	{
		act(batch, relation);
		batch->is_acted_on = true;
		batch->depth = acting_depth;
	}
	else
		goes_on = batch->is_deferred = check(batch, relation, is_final);
	SPI_finish();
	table_close(relation, AccessShareLock);
	return goes_on;
}

static void
unlink_batch(Batch *batch)
{
	Batch	  **link = &batches;

	while (*link != batch)
		link = &(*link)->next;
	*link = batch->next;
}

static void
free_batch(Batch *batch)
{
	if (batch->tids)
	{
		pfree(batch->tids);
		pfree(batch->stamps);
	}
	pfree(batch);
}

/* The next batch to settle: cascades before checks, and the oldest first. */
static Batch *
next_batch(int depth, bool is_final)
{
	Batch	   *to_act = NULL;
	Batch	   *to_check = NULL;

	for (Batch *b = batches; b; b = b->next)
	{
		if (b->depth < depth || (b->is_deferred && !is_final))
			continue;
		if (b->is_acted_on)
			to_check = b;
		else
			to_act = b;
	}
	return to_act ? to_act : to_check;
}

static void
settle_all(int depth, bool is_final)
{
	int			save = acting_depth;
	bool		pushed = false;
	Batch	   *batch;

	if (!ActiveSnapshotSet())
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		pushed = true;
	}
	if (acting_depth < 0)
		acting_depth = depth;
	PG_TRY();
	{
		while ((batch = next_batch(depth, is_final)) != NULL)
		{
			unlink_batch(batch);
			if (settle(batch, is_final))
			{
				batch->next = batches;
				batches = batch;
			}
			else
				free_batch(batch);
		}
	}
	PG_FINALLY();
	{
		acting_depth = save;
	}
	PG_END_TRY();
	if (pushed)
		PopActiveSnapshot();
}

/* A statement's triggers have fired: do what the foreign keys of its rows declare. */
void
sau_fkey_statement_end(void)
{
	if (unlikely(batches != NULL))
		settle_all(sau_log_depth(), false);
}

/* The transaction is about to commit, or SET CONSTRAINTS wants it now. */
void
sau_fkey_settle_deferred(void)
{
	if (batches != NULL)
		settle_all(0, true);
}

/* SET CONSTRAINTS: which constraints it names does not matter to us. */
void
sau_fkey_set_constraints(bool deferred)
{
	constraints_set = deferred ? 'd' : 'i';
	if (!deferred)
		sau_fkey_settle_deferred();
}

/* Forget everything; the memory goes with the transaction. */
void
sau_fkey_xact_end(void)
{
	batches = NULL;
	constraints_set = 0;
	acting_depth = -1;
}

void
sau_fkey_subxact_end(bool committed, SubTransactionId sub, SubTransactionId parent)
{
	Batch	  **link = &batches;

	while (*link)
	{
		Batch	   *batch = *link;

		if (batch->sub < sub)
			link = &batch->next;
		else if (committed)
		{
			batch->sub = parent;
			link = &batch->next;
		}
		else
		{
			*link = batch->next;
			free_batch(batch);
		}
	}
}

PG_FUNCTION_INFO_V1(softaudit_followed);

/* softaudit.followed(): how many rows this session's restores brought back by foreign keys. */
Datum
softaudit_followed(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(followed);
}
