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

static Batch *batches = NULL;	/* newest first; in TopTransactionContext */

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

/* ---- when a key is checked ---- */

static bool
is_deferred_now(const SauKey *key)
{
	if (!key->is_deferrable)
		return false;
	return constraints_set == 0 ? key->is_deferred : constraints_set == 'd';
}

/* ---- arrays of rows ---- */

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

/* ---- what the keys declare ---- */

typedef void (*KeyVisitor) (const SauKey *key, Batch *batch, void *arg);

/*
 * Read the key values of a batch's rows and run a query with them, all at once or, where a
 * type has no arrays, one by one; "visit" is called after each run.  Rows with a NULL in
 * their key refer to nothing and are referred to by nothing.
 */
static void
run_with_keys(SauKeyQuery kind, const SauKey *key, Batch *batch, KeyVisitor visit, void *arg)
{
	const AttrNumber *atts = sau_keyquery_hand_is_parent(kind) ? key->parent_atts : key->child_atts;
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
	if (n > 0 && sau_keyquery_has_arrays(batch->relid, atts, key->n))
	{
		for (int k = 0; k < key->n; k++)
		{
			Form_pg_attribute att = TupleDescAttr(desc, atts[k] - 1);

			values[k] = PointerGetDatum(construct_array(columns[k], n, att->atttypid, att->attlen, att->attbyval, att->attalign));
		}
		values[key->n] = PointerGetDatum(construct_array(columns[key->n], n, TIMESTAMPTZOID, sizeof(TimestampTz), true, TYPALIGN_DOUBLE));
		table_close(relation, NoLock);
		sau_keyquery_run(kind, batch->relid, key, values, SPI_OK_SELECT);
		visit(key, batch, arg);
		return;
	}
	table_close(relation, NoLock);
	for (int i = 0; i < n; i++)
	{
		for (int k = 0; k <= key->n; k++)
			values[k] = columns[k][i];
		sau_keyquery_run(kind, batch->relid, key, values, SPI_OK_SELECT);
		visit(key, batch, arg);
	}
}

static char *
first_value(void)
{
	char	   *value = SPI_getvalue(SPI_tuptable->vals[0], SPI_tuptable->tupdesc, 1);

	return value ? value : "";
}

static void
visit_referred(const SauKey *key, Batch *batch, void *arg)
{
	if (SPI_processed > 0)
		sau_keyquery_refuse_referred(key, batch->relid, first_value());
}

static void
visit_dead_parent(const SauKey *key, Batch *batch, void *arg)
{
	if (SPI_processed > 0)
		sau_keyquery_refuse_dead_parent(key, batch->relid, first_value(), batch->kind == ROWS_RESTORED);
}

static void
visit_locked(const SauKey *key, Batch *batch, void *arg)
{
}

static void
check_referred(const SauKey *key, Batch *batch)
{
	run_with_keys(SAU_KEY_REFERRED, key, batch, visit_referred, NULL);
}

static void
check_parents(const SauKey *key, Batch *batch)
{
	/*
	 * PostgreSQL's own check holds the parents already, unless it is yet to come or was not
	 * due.  The lock waits for who deletes one; what came of it only the next snapshot tells.
	 */
	if (batch->kind == ROWS_RESTORED || batch->is_deferred)
		run_with_keys(SAU_KEY_LOCK_PARENT, key, batch, visit_locked, NULL);
	run_with_keys(SAU_KEY_DEAD_PARENT, key, batch, visit_dead_parent, NULL);
}

/* Mark the live children of rows that were deleted, or bring back those that went with them. */
static void
visit_cascade(const SauKey *key, Batch *batch, void *arg)
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
		sau_keyquery_run(is_restore ? SAU_KEY_UNMARK : SAU_KEY_MARK, leaf, NULL, values, SPI_OK_UPDATE);
		if (is_restore)
			followed += SPI_processed;
	}
}

static void
cascade(const SauKey *key, Batch *batch)
{
	run_with_keys(batch->kind == ROWS_RESTORED ? SAU_KEY_CASCADE_RESTORE : SAU_KEY_CASCADE, key, batch, visit_cascade, NULL);
}

/* Lock rows that were deleted, and have cascades done. */
static void
act(Batch *batch, Relation relation)
{
	List	   *keys = sau_keyquery_keys(relation, RI_TRIGGER_PK);
	ListCell   *lc;

	if (keys == NIL || batch->kind == ROWS_REFERRING)
		return;
	if (batch->kind == ROWS_DELETED)
	{
		Datum		values[1] = {tid_array(batch->latest, batch->n)};

		sau_keyquery_run(SAU_KEY_LOCK, batch->relid, NULL, values, SPI_OK_SELECT);
	}
	foreach(lc, keys)
	{
		SauKey		   *key = lfirst(lc);

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

	foreach(lc, sau_keyquery_keys(relation, batch->kind == ROWS_DELETED ? RI_TRIGGER_PK : RI_TRIGGER_FK))
	{
		SauKey		   *key = lfirst(lc);

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
