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
 * A query on a table runs as that table's owner, as in ri_triggers.c: what compares its
 * columns may be somebody's function.  So none joins the two tables: the key values of the
 * rows at hand are read here and handed over, all at once as arrays.  Our queries are told
 * by their first words, so that the filter leaves them alone.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "softaudit.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/datum.h"
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
	Oid			file;			/* of the relation then: its rows' places hold for that one */
	RowKind		kind;
	bool		is_acted_on;	/* cascades are done, checks are not */
	bool		is_deferred;	/* waits for the commit, or SET CONSTRAINTS */
	int			depth;
	int			noted_depth;
	SubTransactionId sub;
	SubTransactionId acted_in;	/* did the cascades: undone where that one aborts */
	SubTransactionId settled_in;	/* deals with it, or is done with it; else invalid */
	int			n;
	int			cap;
	ItemPointerData *tids;		/* as of the change */
	ItemPointerData *latest;	/* while it is settled; see latest_tids() */
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
	QUERY_LOCK,					/* on the rows themselves */
	QUERY_REFERRED,				/* on the children of rows */
	QUERY_CASCADE,
	QUERY_CASCADE_RESTORE,
	QUERY_DEAD_PARENT,			/* on the parents of rows */
	QUERY_LOCK_PARENT,
	QUERY_MARK,					/* on children by their place */
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

/* What was said before a subtransaction said something else. */
typedef struct SetBefore
{
	struct SetBefore *next;
	SubTransactionId sub;
	char		before;
} SetBefore;

static SetBefore *set_before = NULL;	/* innermost first; in TopTransactionContext */

/* ---- noting rows ---- */

static Batch *
open_batch(Relation relation, RowKind kind)
{
	Oid			relid = RelationGetRelid(relation);
	int			depth = sau_log_depth();
	SubTransactionId sub = GetCurrentSubTransactionId();
	Batch	   *batch;

	for (batch = batches; batch; batch = batch->next)
		if (batch->relid == relid && batch->kind == kind && batch->depth == depth &&
			batch->sub == sub && !batch->is_acted_on && batch->settled_in == InvalidSubTransactionId)
			return batch;
	batch = MemoryContextAllocZero(TopTransactionContext, sizeof(Batch));
	batch->relid = relid;
	batch->file = relation->rd_rel->relfilenode;
	batch->kind = kind;
	batch->depth = batch->noted_depth = depth;
	batch->sub = sub;
	batch->next = batches;
	batches = batch;
	return batch;
}

static void
note(Relation relation, RowKind kind, TupleTableSlot *slot, TimestampTz stamp)
{
	Batch	   *batch = open_batch(relation, kind);

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

static bool
is_changed(const TriggerData *data, AttrNumber attno)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(data->tg_relation), attno - 1);
	bool		before_null;
	bool		after_null;
	Datum		before = slot_getattr(data->tg_trigslot, attno, &before_null);
	Datum		after = slot_getattr(data->tg_newslot, attno, &after_null);

	return before_null != after_null ||
		(!before_null && !datum_image_eq(before, after, att->attbyval, att->attlen));
}

/*
 * Whether an UPDATE changed a column that refers to a row.  One that leaves all
 * references as they are checks none, like RI_FKey_fk_upd_check_required(): SET NULL
 * leaves live rows that refer to a deleted one.  What an earlier statement of the
 * transaction noted stays noted.
 */
static bool
changes_reference(const TriggerData *data, const SauMarker *marker)
{
	ListCell   *lc;

	for (int i = 0; i < data->tg_trigger->tgnattr; i++)
	{
		AttrNumber	attno = data->tg_trigger->tgattr[i];

		if (!(marker && attno == marker->attno) && is_changed(data, attno))
			return true;
	}
	if (data->tg_trigger->tgnattr > 0)
		return false;
	/* fired for every UPDATE, because BEFORE triggers may set what no statement names */
	foreach(lc, RelationGetFKeyList(data->tg_relation))
	{
		ForeignKeyCacheInfo *key = lfirst(lc);

		for (int i = 0; i < key->nkeys; i++)
			if (is_changed(data, key->conkey[i]))
				return true;
	}
	return false;
}

PG_FUNCTION_INFO_V1(softaudit_follow_keys);

/*
 * softaudit.follow_keys(): the row trigger of tables that refer to soft-deleted tables, or
 * are ones and are referred to; it fires after an INSERT, and after an UPDATE of the
 * columns concerned, or after any where the table has BEFORE triggers of its user's.
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
	else if (is_live && changes_reference(data, marker))
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

/*
 * The condition that row "t" of the table that is looked at belongs to key "k" of the
 * rows at hand: those are the parents' side, or the children's.
 */
static void
append_join(StringInfo sql, const Key *key, Oid looked_at, const AttrNumber *atts, Oid at_hand, const AttrNumber *hand_atts, bool hand_is_parent)
{
	for (int i = 0; i < key->n; i++)
	{
		const char *ours = psprintf("k.k%d", i + 1);
		const char *theirs = column_name("t", looked_at, atts[i]);
		Oid			our_type = get_atttype(at_hand, hand_atts[i]);
		Oid			their_type = get_atttype(looked_at, atts[i]);

		if (i > 0)
			appendStringInfoString(sql, " AND ");
		if (hand_is_parent)
			generate_operator_clause(sql, ours, our_type, key->operators[i], theirs, their_type);
		else
			generate_operator_clause(sql, theirs, their_type, key->operators[i], ours, our_type);
	}
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

/* Can all key values be handed over as arrays?  A type that has none goes row by row. */
static bool
has_arrays(Oid relid, const AttrNumber *atts, int n)
{
	for (int i = 0; i < n; i++)
		if (!OidIsValid(get_array_type(get_atttype(relid, atts[i]))))
			return false;
	return true;
}

/* Whether the rows at hand are the parents, in a query of this kind. */
static bool
hand_is_parent(QueryKind kind)
{
	return kind == QUERY_REFERRED || kind == QUERY_CASCADE || kind == QUERY_CASCADE_RESTORE;
}

/* The keys of the rows at hand as a FROM item "k", with their stamps last; and the parameters' types. */
static int
append_keys(StringInfo sql, Oid relid, const AttrNumber *atts, int n, Oid *types)
{
	bool		arrays = has_arrays(relid, atts, n);
	StringInfoData items;
	StringInfoData names;

	initStringInfo(&items);
	initStringInfo(&names);
	for (int i = 0; i <= n; i++)
	{
		Oid			type = i < n ? get_atttype(relid, atts[i]) : TIMESTAMPTZOID;

		types[i] = arrays ? get_array_type(type) : type;
		appendStringInfo(&items, arrays ? "%spg_catalog.unnest($%d)" : "%s$%d", i > 0 ? ", " : "", i + 1);
		if (i < n)
			appendStringInfo(&names, "k%d, ", i + 1);
	}
	appendStringInfo(sql, arrays ? " FROM ROWS FROM (%s) k (%ss) JOIN " : " FROM (SELECT %s) k (%ss) JOIN ", items.data, names.data);
	return n + 1;
}

/*
 * The plan of a query.  "relid" is the relation whose rows are at hand; the query looks at
 * that one, or at the other side of the key.
 */
static SPIPlanPtr
plan_for(QueryKind kind, Oid relid, const Key *key)
{
	PlanKey		plan_key;
	PlanEntry  *entry;
	bool		found;
	StringInfoData sql;
	Oid			types[INDEX_MAX_KEYS + 1];
	int			n_types;
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
	types[0] = TIDARRAYOID;
	types[1] = TIMESTAMPTZARRAYOID;
	n_types = 1;
	if (key)
	{
		bool		parent_at_hand = hand_is_parent(kind);
		Oid			other = parent_at_hand ? key->child : key->parent;
		const AttrNumber *here = parent_at_hand ? key->parent_atts : key->child_atts;
		const AttrNumber *there = parent_at_hand ? key->child_atts : key->parent_atts;

		marker = sau_marker_get(other);
		if (kind == QUERY_CASCADE || kind == QUERY_CASCADE_RESTORE)
			appendStringInfoString(&sql, "SELECT t.tableoid, t.ctid, k.s");
		else
		{
			appendStringInfoString(&sql, "SELECT pg_catalog.concat_ws(', '");
			for (int i = 0; i < key->n; i++)
				appendStringInfo(&sql, ", k.k%d", i + 1);
			appendStringInfoChar(&sql, ')');
		}
		n_types = append_keys(&sql, relid, here, key->n, types);
		appendStringInfo(&sql, "%s%s t ON ", only(other), relation_name(other));
		append_join(&sql, key, other, there, relid, here, parent_at_hand);
		switch (kind)
		{
			case QUERY_REFERRED:
				if (marker)
					appendStringInfo(&sql, " WHERE %s IS NULL", column_name("t", other, marker->attno));
				appendStringInfoString(&sql, " LIMIT 1 FOR KEY SHARE OF t");
				break;
			case QUERY_CASCADE:
				appendStringInfo(&sql, " WHERE %s IS NULL FOR UPDATE OF t", column_name("t", other, marker->attno));
				break;
			case QUERY_CASCADE_RESTORE:
				appendStringInfo(&sql, " WHERE %s OPERATOR(pg_catalog.=) %s FOR UPDATE OF t",
								 column_name("t", other, marker->attno), as_stamp("k.s", marker));
				break;
			case QUERY_DEAD_PARENT:
				appendStringInfo(&sql, " WHERE %s IS NOT NULL LIMIT 1", column_name("t", other, marker->attno));
				break;
			default:
				appendStringInfoString(&sql, " FOR KEY SHARE OF t");
				break;
		}
	}
	else if (kind == QUERY_LOCK)
		appendStringInfo(&sql, "SELECT 1 FROM ONLY %s t WHERE t.ctid OPERATOR(pg_catalog.=) ANY ($1) FOR UPDATE OF t", relation_name(relid));
	else
	{
		const char *column;

		marker = sau_marker_get(relid);
		column = quote_identifier(get_attname(relid, marker->attno, false));
		if (kind == QUERY_MARK)
		{
			n_types = 2;
			appendStringInfo(&sql, "UPDATE ONLY %s t SET %s = %s FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) u (t, s)"
							 " WHERE t.ctid OPERATOR(pg_catalog.=) u.t AND t.%s IS NULL",
							 relation_name(relid), column, as_stamp("u.s", marker), column);
		}
		else
			appendStringInfo(&sql, "UPDATE ONLY %s t SET %s = NULL FROM pg_catalog.unnest($1) u (t)"
							 " WHERE t.ctid OPERATOR(pg_catalog.=) u.t", relation_name(relid), column);
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
 * Run a query of ours as the owner of the table that it looks at.  Under a snapshot of the
 * whole transaction it sees what was committed since, as ri_PerformCheck() does, so that
 * nothing slips through.
 */
static void
run_query(QueryKind kind, Oid relid, const Key *key, Datum *values, int expected)
{
	Oid			looked_at = key == NULL ? relid : hand_is_parent(kind) ? key->child : key->parent;
	Oid			save_user;
	int			save_context;
	int			ret;
	Snapshot	test = InvalidSnapshot;
	Snapshot	crosscheck = InvalidSnapshot;
	SPIPlanPtr	plan;

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(sau_compat_relation_owner(looked_at), save_context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_NOFORCE_RLS);
	/* before its columns are named: somebody may be about to rename them */
	LockRelationOid(looked_at, kind == QUERY_DEAD_PARENT ? AccessShareLock :
					kind == QUERY_MARK || kind == QUERY_UNMARK ? RowExclusiveLock : RowShareLock);
	plan = plan_for(kind, relid, key);
	if (IsolationUsesXactSnapshot())
	{
		CommandCounterIncrement();
		test = GetLatestSnapshot();
		crosscheck = GetTransactionSnapshot();
	}
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

/*
 * Triggers may have changed a row again: find its newest version.  What was noted stays:
 * a savepoint may take the newer versions back.
 */
static void
latest_tids(Relation relation, Batch *batch)
{
	Snapshot	snapshot;
	TableScanDesc scan;

	batch->latest = palloc(batch->n * sizeof(ItemPointerData));
	memcpy(batch->latest, batch->tids, batch->n * sizeof(ItemPointerData));
	CommandCounterIncrement();
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	scan = table_beginscan_tid(relation, snapshot);
	for (int i = 0; i < batch->n; i++)
		table_tuple_get_latest_tid(scan, &batch->latest[i]);
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

/* Name the key in the error's fields, as ri_ReportViolation() does: clients read them. */
static int
err_key(const Key *key)
{
	err_generic_string(PG_DIAG_SCHEMA_NAME, get_namespace_name(get_rel_namespace(key->child)));
	err_generic_string(PG_DIAG_TABLE_NAME, get_rel_name(key->child));
	return err_generic_string(PG_DIAG_CONSTRAINT_NAME, key->name);
}

static void
refuse_referred(const Key *key, Oid relid, char *value)
{
	ereport(ERROR,
			(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
			 err_key(key),
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
			 err_key(key),
			 errmsg("insert or update on table \"%s\" violates foreign key constraint \"%s\"",
					get_rel_name(relid), key->name),
			 may_show(relid) ?
			 errdetail("Key (%s)=(%s) is that of a deleted row of table \"%s\".",
					   column_list(relid, key->child_atts, key->n), value, get_rel_name(key->parent)) :
			 errdetail("Key is that of a deleted row of table \"%s\".", get_rel_name(key->parent)),
			 errhint("Restore the row of \"%s\" first, with softaudit.restore().", get_rel_name(key->parent))));
}

/* ---- what the keys declare ---- */

typedef void (*KeyVisitor) (const Key *key, Batch *batch, void *arg);

/*
 * Read the key values of a batch's rows and run a query with them, all at once or, where a
 * type has no arrays, one by one; "visit" is called after each run.  Rows with a NULL in
 * their key refer to nothing and are referred to by nothing.
 */
static void
run_with_keys(QueryKind kind, const Key *key, Batch *batch, KeyVisitor visit, void *arg)
{
	const AttrNumber *atts = hand_is_parent(kind) ? key->parent_atts : key->child_atts;
	Relation	relation = table_open(batch->relid, NoLock);
	TupleDesc	desc = RelationGetDescr(relation);
	const SauMarker *marker = sau_marker_get(batch->relid);
	AttrNumber	stamp_attno = marker ? marker->attno : InvalidAttrNumber;
	TupleTableSlot *slot;
	Snapshot	snapshot;
	Datum	   *columns[INDEX_MAX_KEYS + 1];
	Datum		values[INDEX_MAX_KEYS + 1];
	int			n = 0;

	/* the table is not soft-deleted any more, and its rows are live */
	if (batch->kind == ROWS_DELETED && stamp_attno == InvalidAttrNumber)
	{
		table_close(relation, NoLock);
		return;
	}
	slot = table_slot_create(relation, NULL);
	snapshot = RegisterSnapshot(GetLatestSnapshot());
	for (int k = 0; k <= key->n; k++)
		columns[k] = palloc(batch->n * sizeof(Datum));
	for (int i = 0; i < batch->n; i++)
	{
		bool		has_null = false;

		if (!table_tuple_fetch_row_version(relation, &batch->latest[i], snapshot, slot))
			continue;
		for (int k = 0; k < key->n && !has_null; k++)
		{
			Form_pg_attribute att = TupleDescAttr(desc, atts[k] - 1);
			Datum		value = slot_getattr(slot, atts[k], &has_null);

			if (!has_null)
				columns[k][n] = datumCopy(value, att->attbyval, att->attlen);
		}
		if (has_null)
			continue;
		columns[key->n][n] = TimestampTzGetDatum(batch->stamps[i]);
		if (batch->kind == ROWS_DELETED)
		{
			columns[key->n][n] = slot_getattr(slot, stamp_attno, &has_null);
			/* a trigger brought it back meanwhile */
			if (has_null)
				continue;
		}
		else if (stamp_attno != InvalidAttrNumber && !slot_attisnull(slot, stamp_attno))
			continue;			/* or deleted it */
		n++;
	}
	UnregisterSnapshot(snapshot);
	ExecDropSingleTupleTableSlot(slot);
	if (n > 0 && has_arrays(batch->relid, atts, key->n))
	{
		for (int k = 0; k < key->n; k++)
		{
			Form_pg_attribute att = TupleDescAttr(desc, atts[k] - 1);

			values[k] = PointerGetDatum(construct_array(columns[k], n, att->atttypid, att->attlen, att->attbyval, att->attalign));
		}
		values[key->n] = PointerGetDatum(construct_array(columns[key->n], n, TIMESTAMPTZOID, sizeof(TimestampTz), true, TYPALIGN_DOUBLE));
		table_close(relation, NoLock);
		run_query(kind, batch->relid, key, values, SPI_OK_SELECT);
		visit(key, batch, arg);
		return;
	}
	table_close(relation, NoLock);
	for (int i = 0; i < n; i++)
	{
		for (int k = 0; k <= key->n; k++)
			values[k] = columns[k][i];
		run_query(kind, batch->relid, key, values, SPI_OK_SELECT);
		visit(key, batch, arg);
	}
}

static void
visit_referred(const Key *key, Batch *batch, void *arg)
{
	if (SPI_processed > 0)
		refuse_referred(key, batch->relid, first_value());
}

static void
visit_dead_parent(const Key *key, Batch *batch, void *arg)
{
	if (SPI_processed > 0)
		refuse_dead_parent(key, batch->relid, first_value());
}

static void
visit_locked(const Key *key, Batch *batch, void *arg)
{
}

static void
check_referred(const Key *key, Batch *batch)
{
	run_with_keys(QUERY_REFERRED, key, batch, visit_referred, NULL);
}

static void
check_parents(const Key *key, Batch *batch)
{
	/*
	 * PostgreSQL's own check holds the parents already, unless it is yet to come or was not
	 * due.  The lock waits for who deletes one; what came of it only the next snapshot tells.
	 */
	if (batch->kind == ROWS_RESTORED || batch->is_deferred)
		run_with_keys(QUERY_LOCK_PARENT, key, batch, visit_locked, NULL);
	run_with_keys(QUERY_DEAD_PARENT, key, batch, visit_dead_parent, NULL);
}

/* Mark the live children of rows that were deleted, or bring back those that went with them. */
static void
visit_cascade(const Key *key, Batch *batch, void *arg)
{
	bool		is_restore = batch->kind == ROWS_RESTORED;
	Datum		values[2];
	SPITupleTable *found = SPI_tuptable;
	uint64		n = SPI_processed;
	ItemPointerData *tids;
	TimestampTz *stamps;
	Oid		   *leaves;

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

			if (done == 0)
				leaves[i] = DatumGetObjectId(SPI_getbinval(found->vals[i], found->tupdesc, 1, &isnull));
			if (!OidIsValid(leaves[i]) || (OidIsValid(leaf) && leaves[i] != leaf))
				continue;
			leaf = leaves[i];
			leaves[i] = InvalidOid;
			tids[m] = *(ItemPointer) DatumGetPointer(SPI_getbinval(found->vals[i], found->tupdesc, 2, &isnull));
			stamps[m++] = DatumGetTimestampTz(SPI_getbinval(found->vals[i], found->tupdesc, 3, &isnull));
		}
		done += m;
		values[0] = tid_array(tids, m);
		values[1] = stamp_array(stamps, m);
		run_query(is_restore ? QUERY_UNMARK : QUERY_MARK, leaf, NULL, values, SPI_OK_UPDATE);
		if (is_restore)
			followed += SPI_processed;
	}
}

static void
cascade(const Key *key, Batch *batch)
{
	run_with_keys(batch->kind == ROWS_RESTORED ? QUERY_CASCADE_RESTORE : QUERY_CASCADE, key, batch, visit_cascade, NULL);
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
		Datum		values[1] = {tid_array(batch->latest, batch->n)};

		run_query(QUERY_LOCK, batch->relid, NULL, values, SPI_OK_SELECT);
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
	Relation	relation = try_table_open(batch->relid, AccessShareLock);
	bool		goes_on = true;

	/* dropped since, and its foreign keys with it */
	if (relation == NULL)
		return false;
	/* where PostgreSQL has something pending it refuses the ALTER TABLE or CLUSTER itself */
	if (relation->rd_rel->relfilenode != batch->file)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_IN_USE),
				 errmsg("table \"%s\" was rewritten while deferred checks of its foreign keys were pending",
						RelationGetRelationName(relation)),
				 errhint("SET CONSTRAINTS ALL IMMEDIATE before the command that rewrites it.")));
	if (SPI_connect() != SPI_OK_CONNECT)
		elog(ERROR, "SPI_connect failed");
	latest_tids(relation, batch);
	if (!batch->is_acted_on)
	{
		act(batch, relation);
		batch->is_acted_on = true;
		batch->acted_in = GetCurrentSubTransactionId();
		batch->depth = acting_depth;
	}
	else
	{
		goes_on = check(batch, relation, is_final);
		if (goes_on)
			batch->is_deferred = true;
	}
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
		if (b->depth < depth || (b->is_deferred && !is_final) || b->settled_in != InvalidSubTransactionId)
			continue;
		if (b->is_acted_on)
			to_check = b;
		else
			to_act = b;
	}
	return to_act ? to_act : to_check;
}

/*
 * A batch stays in the list while it is dealt with, and afterwards where a subtransaction
 * dealt with what an outer one noted: an abort of the former brings it back.
 */
static void
settle_all(int depth, bool is_final)
{
	SubTransactionId sub = GetCurrentSubTransactionId();
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
			batch->settled_in = sub;
			if (settle(batch, is_final))
				batch->settled_in = InvalidSubTransactionId;
			else if (batch->sub == sub)
			{
				unlink_batch(batch);
				free_batch(batch);
			}
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
	SubTransactionId sub = GetCurrentSubTransactionId();

	if (set_before == NULL || set_before->sub != sub)
	{
		SetBefore  *entry = MemoryContextAlloc(TopTransactionContext, sizeof(SetBefore));

		entry->sub = sub;
		entry->before = constraints_set;
		entry->next = set_before;
		set_before = entry;
	}
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
	set_before = NULL;
	acting_depth = -1;
}

void
sau_fkey_subxact_end(bool committed, SubTransactionId sub, SubTransactionId parent)
{
	Batch	  **link = &batches;

	while (set_before && set_before->sub >= sub)
	{
		SetBefore  *entry = set_before;

		if (committed && (entry->next == NULL || entry->next->sub < parent))
		{
			entry->sub = parent;
			break;
		}
		if (!committed)
			constraints_set = entry->before;
		set_before = entry->next;
		pfree(entry);
	}
	while (*link)
	{
		Batch	   *batch = *link;
		bool		is_done = false;

		if (committed)
		{
			if (batch->sub == sub)
				batch->sub = parent;
			if (batch->acted_in == sub)
				batch->acted_in = parent;
			if (batch->settled_in == sub)
			{
				batch->settled_in = parent;
				is_done = batch->sub == parent;
			}
		}
		else if (batch->sub >= sub)
			is_done = true;
		else
		{
			if (batch->settled_in >= sub)
				batch->settled_in = InvalidSubTransactionId;
			if (batch->acted_in >= sub)
			{
				batch->acted_in = InvalidSubTransactionId;
				batch->is_acted_on = false;
				batch->depth = batch->noted_depth;
			}
		}
		if (is_done)
		{
			*link = batch->next;
			free_batch(batch);
		}
		else
			link = &batch->next;
	}
}

PG_FUNCTION_INFO_V1(softaudit_followed);

/* softaudit.followed(): how many rows this session's restores brought back by foreign keys. */
Datum
softaudit_followed(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(followed);
}
