/*
 * capture.c
 *		The trigger that captures a table's changes.
 *
 * Step of the path: PostgreSQL fires softaudit.capture() after a row changed, or
 * after a TRUNCATE; this file decides what the event is worth and has image.c and
 * log.c lay it down.  Nothing is read from a catalog here, and nothing allocated
 * per row that outlives the row.
 *
 * A row that moves between partitions fires twice, as a DELETE and an INSERT; the
 * old version's header says that it moved.  It is set aside until the INSERT of the
 * same statement arrives, and the two are logged as one UPDATE.  What stays alone (a
 * trigger on the target partition refused the row) is logged as the DELETE it is.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/table.h"
#include "access/tupconvert.h"
#include "access/xact.h"
#include "commands/trigger.h"
#include "executor/executor.h"
#include "replication/logicalworker.h"
#include "softaudit.h"
#include "utils/memutils.h"

/* The old version of a row under way to another partition. */
typedef struct Move
{
	struct Move *next;
	MemoryContext cxt;			/* holds this, too */
	Oid			relid;			/* the partition it left */
	int32		table_id;
	int			depth;
	SubTransactionId sub;
	bool		is_applied;		/* by logical replication, in this command: may have been a DELETE */
	CommandId	command;
	HeapTuple	tuple;
} Move;

/* Where a moved row was, when its old image is not to be had from where it went. */
typedef struct Source
{
	SauRel	   *rel;
	Relation	relation;
	TupleTableSlot *slot;
	const AttrMap *map;			/* from the target's columns to those here; NULL: the same */
} Source;

/* A relation that a TRUNCATE emptied. */
typedef struct Truncated
{
	struct Truncated *next;
	Oid			relid;
	int32		table_id;
	uint64		statement;
} Truncated;

static Move *moves = NULL;		/* innermost statement first */
static Truncated *truncated = NULL; /* in TopTransactionContext */

static void
put_image(SauRel *rel, Relation relation, TupleTableSlot *slot, const bool *wanted,
		  SauBuf *buf, int attno)
{
	sau_log_field_begin();
	if (wanted)
		sau_image_some(rel, relation, slot, wanted, buf);
	else
		sau_image_full(rel, relation, slot, buf);
	sau_log_field_end(attno);
}

static void
put_key(SauRel *rel, Relation relation, TupleTableSlot *slot, SauBuf *buf, int attno)
{
	sau_log_field_begin();
	sau_image_key(rel, relation, slot, buf);
	sau_log_field_end(attno);
}

/* The old image of a moved row, by the description of where it was. */
static void
put_source_image(const Source *source, const bool *wanted, int natts, SauBuf *buf, int attno)
{
	bool	   *own = NULL;

	if (wanted)
	{
		own = palloc0(RelationGetNumberOfAttributes(source->relation) * sizeof(bool));
		for (int i = 0; i < natts; i++)
		{
			int			att = source->map ? source->map->attnums[i] : i + 1;

			if (att > 0)
				own[att - 1] = wanted[i];
		}
	}
	put_image(source->rel, source->relation, source->slot, own, buf, attno);
	if (own)
		pfree(own);
}

/*
 * Log one change of a row: either slot may be NULL.  The row's key is told by its
 * images where they hold it, else by columns of its own.  "source" is NULL unless the
 * old image is its.
 */
static void
log_change(SauRel *rel, Relation relation, SauOperation op, TupleTableSlot *oldslot,
		   TupleTableSlot *newslot, const bool *wanted, bool key_changed, const Source *source)
{
	TupleTableSlot *slot = newslot ? newslot : oldslot;
	bool		has_key = sau_image_has_key(rel, relation);
	bool		has_image = (op != SAU_PURGE && op != SAU_ERASE) || sau_lifecycle_keeps_image(rel->table_id);
	bool		says_key = has_key && op != SAU_ERASE && !(has_image && sau_image_holds_key(rel, relation));
	SauBuf	   *buf = sau_log_begin(rel, op, newslot && !says_key && !key_changed);

	sau_log_ref(SAU_LOG_ROW_REF, sau_image_slot_ref(rel, relation, slot, buf));
	if (newslot)
		put_image(rel, relation, newslot, wanted, buf, SAU_LOG_NEW_DATA);
	if (unlikely(source != NULL))
		put_source_image(source, wanted, RelationGetNumberOfAttributes(relation), buf, SAU_LOG_OLD_DATA);
	else if (oldslot && has_image)
		put_image(rel, relation, oldslot, wanted, buf, SAU_LOG_OLD_DATA);
	if (says_key)
		put_key(rel, relation, slot, buf, SAU_LOG_ROW_KEY);
	if (key_changed)
	{
		sau_log_ref(SAU_LOG_OLD_ROW_REF, sau_image_slot_ref(rel, relation, oldslot, buf));
		if (says_key)
			put_key(rel, relation, oldslot, buf, SAU_LOG_OLD_ROW_KEY);
	}
	sau_log_end();
}

static void
log_insert(SauRel *rel, Relation relation, TupleTableSlot *slot)
{
	log_change(rel, relation, SAU_INSERT, NULL, slot, NULL, false, NULL);
}

static void
log_delete(SauRel *rel, Relation relation, TupleTableSlot *slot)
{
	log_change(rel, relation, sau_lifecycle_removal(rel->table_id), slot, NULL, NULL, false, NULL);
}

/* What an UPDATE is: one that sets or clears the marker of a soft-deleted table has a name of its own. */
static SauOperation
update_operation(SauRel *rel, Relation relation, TupleTableSlot *oldslot, TupleTableSlot *newslot)
{
	bool		was_deleted;
	bool		is_deleted;

	if (unlikely(!rel->marker_known))
	{
		const SauMarker *marker = sau_marker_get(RelationGetRelid(relation));

		rel->deleted_attno = marker ? marker->attno : InvalidAttrNumber;
		rel->marker_known = true;
	}
	if (rel->deleted_attno == InvalidAttrNumber)
		return SAU_UPDATE;
	was_deleted = !slot_attisnull(oldslot, rel->deleted_attno);
	is_deleted = !slot_attisnull(newslot, rel->deleted_attno);
	if (was_deleted == is_deleted)
		return SAU_UPDATE;
	return is_deleted ? SAU_SOFT_DELETE : SAU_RESTORE;
}

static void
log_update(SauRel *rel, Relation relation, TupleTableSlot *oldslot, TupleTableSlot *newslot, const Source *source)
{
	SauOperation op = update_operation(rel, relation, oldslot, newslot);
	bool		has_key = sau_image_has_key(rel, relation);
	bool		key_changed = has_key && !sau_image_same_key(rel, relation, oldslot, newslot);
	bool		few[64];
	bool	   *wanted = NULL;
	int			natts = RelationGetNumberOfAttributes(relation);

	if (rel->changes_only || rel->has_ignore)
	{
		/* a row's history would break off at a key that changed unlogged */
		bool		relevant = !rel->has_ignore || key_changed || op != SAU_UPDATE;

		wanted = natts > (int) lengthof(few) ? palloc(natts * sizeof(bool)) : few;
		sau_image_compare(rel, relation, oldslot, newslot, wanted);
		/* two expressions may have made them */
		for (int i = 0; i < natts && source; i++)
			wanted[i] = wanted[i] || sau_compat_is_virtual(TupleDescAttr(RelationGetDescr(relation), i));
		for (int i = 0; i < natts && !relevant; i++)
			relevant = wanted[i] && !(i < rel->natts && (rel->column_flags[i] & SAU_COLUMN_IGNORE));
		if (!relevant)
			return;
		if (!rel->changes_only)
			wanted = NULL;
	}
	if (wanted && has_key)
	{
		const bool *key_columns = sau_image_key_columns(rel, relation);

		for (int i = 0; i < natts; i++)
			wanted[i] = wanted[i] || key_columns[i];
	}
	log_change(rel, relation, op, oldslot, newslot, wanted, key_changed, source);
}

/*
 * ---- rows that move between partitions ----
 *
 * An UPDATE that moves a row marks what it deletes.  Logical replication does not as it applies one
 * (apply_handle_tuple_routing()): there a DELETE and an INSERT of one command are it, since
 * each change that is sent has a command of its own.
 */

/* Is the change one that logical replication applies, and not a trigger's? */
static bool
is_applied(void)
{
	return unlikely(IsLogicalWorker()) && sau_log_depth() == 0;
}

static void
set_aside(SauRel *rel, Relation relation, TupleTableSlot *slot)
{
	MemoryContext cxt = AllocSetContextCreate(TopTransactionContext, "softaudit moved row",
											  ALLOCSET_SMALL_SIZES);
	MemoryContext old = MemoryContextSwitchTo(cxt);
	Move	   *move = palloc(sizeof(Move));

	move->cxt = cxt;
	move->relid = RelationGetRelid(relation);
	move->table_id = rel->table_id;
	move->depth = sau_log_depth();
	move->sub = GetCurrentSubTransactionId();
	move->tuple = ExecCopySlotHeapTuple(slot);
	move->is_applied = is_applied();
	move->command = GetCurrentCommandId(false);
	move->next = moves;
	MemoryContextSwitchTo(old);
	moves = move;
}

/* Take the innermost move off the list; the caller frees it. */
static Move *
take_move(void)
{
	Move	   *move = moves;

	moves = move->next;
	return move;
}

/* Log a move that never arrived as the DELETE that it was. */
static void
settle(Move *move)
{
	Relation	relation = table_open(move->relid, AccessShareLock);
	Trigger    *trigger = sau_registry_trigger(relation);

	if (trigger)
	{
		SauRel	   *rel = sau_registry_get(relation, trigger);
		TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(relation), &TTSOpsHeapTuple);

		sau_registry_hold(rel);
		ExecStoreHeapTuple(move->tuple, slot, false);
		log_delete(rel, relation, slot);
		ExecDropSingleTupleTableSlot(slot);
		sau_registry_release(rel);
	}
	table_close(relation, AccessShareLock);
	MemoryContextDelete(move->cxt);
}

/* Log a row's arrival in another partition as an UPDATE. */
static void
log_arrival(Move *move, SauRel *rel, Relation relation, TupleTableSlot *newslot)
{
	Relation	source = table_open(move->relid, AccessShareLock);
	TupleConversionMap *map = convert_tuples_by_name(RelationGetDescr(source), RelationGetDescr(relation));
	TupleTableSlot *oldslot = MakeSingleTupleTableSlot(RelationGetDescr(relation), &TTSOpsHeapTuple);
	HeapTuple	tuple = map ? execute_attr_map_tuple(move->tuple, map) : move->tuple;
	Source		from = {NULL, source, NULL, map ? map->attrMap : NULL};
	Trigger    *trigger;

	/* each partition has expressions of its own */
	if (unlikely(sau_compat_has_virtual(RelationGetDescr(source))) &&
		(trigger = sau_registry_trigger(source)) != NULL)
	{
		from.rel = sau_registry_get(source, trigger);
		sau_registry_hold(from.rel);
		from.slot = MakeSingleTupleTableSlot(RelationGetDescr(source), &TTSOpsHeapTuple);
		ExecStoreHeapTuple(move->tuple, from.slot, false);
	}
	ExecStoreHeapTuple(tuple, oldslot, false);
	log_update(rel, relation, oldslot, newslot, from.rel ? &from : NULL);
	ExecDropSingleTupleTableSlot(oldslot);
	if (from.rel)
	{
		ExecDropSingleTupleTableSlot(from.slot);
		sau_registry_release(from.rel);
	}
	table_close(source, AccessShareLock);
	MemoryContextDelete(move->cxt);
}

/* The statement that is about to end has no more arrivals to come. */
void
sau_capture_statement_end(void)
{
	while (moves && moves->depth >= sau_log_depth())
		settle(take_move());
}

/* ---- TRUNCATE ---- */

/*
 * One TRUNCATE of a partitioned table fires for the table and then for each of its
 * partitions.  A partition is passed over where an ancestor was truncated by the same
 * statement: it was empty already.
 */
static void
log_truncate(SauRel *rel, Relation relation)
{
	Oid			relid = RelationGetRelid(relation);
	Truncated  *t;
	SauBuf	   *buf;

	if (truncated && relation->rd_rel->relispartition)
	{
		List	   *ancestors = sau_ancestors_of(relid);

		for (t = truncated; t; t = t->next)
			if (t->table_id == rel->table_id && t->statement == sau_log_statement_serial() &&
				list_member_oid(ancestors, t->relid))
				return;
	}
	buf = sau_log_begin(rel, SAU_TRUNCATE, false);
	(void) buf;
	if (rel->partition_name)
		sau_log_text(SAU_LOG_PARTITION_NAME, rel->partition_name);
	sau_log_end();

	t = MemoryContextAlloc(TopTransactionContext, sizeof(Truncated));
	t->relid = relid;
	t->table_id = rel->table_id;
	t->statement = sau_log_statement_serial();
	t->next = truncated;
	truncated = t;
}

/* ---- transactions ---- */

/* Forget what the transaction left; its memory goes by itself. */
void
sau_capture_xact_end(void)
{
	moves = NULL;
	truncated = NULL;
}

void
sau_capture_subxact_end(bool committed, SubTransactionId sub, SubTransactionId parent)
{
	if (committed)
	{
		for (Move *m = moves; m; m = m->next)
			if (m->sub == sub)
				m->sub = parent;
		return;
	}
	while (moves && moves->sub >= sub)
		MemoryContextDelete(take_move()->cxt);
}

PG_FUNCTION_INFO_V1(softaudit_capture);

/*
 * softaudit.capture(): the trigger function, for AFTER ... FOR EACH ROW and for
 * AFTER TRUNCATE FOR EACH STATEMENT.
 */
Datum
softaudit_capture(PG_FUNCTION_ARGS)
{
	TriggerData *data = (TriggerData *) fcinfo->context;
	Relation	relation;
	SauRel	   *rel;

	if (!CALLED_AS_TRIGGER(fcinfo))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("softaudit.capture() was not called by the trigger manager"),
				 errhint("Use softaudit.enable() to have a table audited.")));
	if (!TRIGGER_FIRED_AFTER(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("softaudit.capture() must be fired AFTER a change")));
	if (!TRIGGER_FIRED_FOR_ROW(data->tg_event) && !TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("softaudit.capture() must be fired FOR EACH ROW")));

	if (strcmp(data->tg_trigger->tgname, TRIGGER_FIRED_FOR_ROW(data->tg_event) ? SAU_CAPTURE_TRIGGER : SAU_TRUNCATE_TRIGGER) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("softaudit.capture() was called by trigger \"%s\", which is not softaudit's", data->tg_trigger->tgname),
				 errhint("Drop the trigger; softaudit.enable() makes what is needed.")));
	relation = data->tg_relation;
	rel = sau_registry_get(relation, data->tg_trigger);
	sau_registry_hold(rel);

	if (TRIGGER_FIRED_BY_TRUNCATE(data->tg_event))
	{
		if (unlikely(moves && moves->depth == sau_log_depth()))
			settle(take_move());
		log_truncate(rel, relation);
	}
	else
	{
		if (TRIGGER_FIRED_BY_INSERT(data->tg_event))
		{
			bool		under_way = unlikely(moves && moves->depth == sau_log_depth());

			/* a move never ends where it began */
			if (under_way && moves->table_id == rel->table_id && moves->relid != RelationGetRelid(relation) &&
				(!moves->is_applied || moves->command == GetCurrentCommandId(false)))
				log_arrival(take_move(), rel, relation, data->tg_trigslot);
			else
			{
				/* the row's own arrival would have come next */
				if (under_way)
					settle(take_move());
				log_insert(rel, relation, data->tg_trigslot);
			}
		}
		else
		{
			if (unlikely(moves && moves->depth == sau_log_depth()))
				settle(take_move());
			if (TRIGGER_FIRED_BY_UPDATE(data->tg_event))
				log_update(rel, relation, data->tg_trigslot, data->tg_newslot, NULL);
			else if (rel->partition_name &&
					 (HeapTupleHeaderIndicatesMovedPartitions(data->tg_trigtuple->t_data) || is_applied()))
				set_aside(rel, relation, data->tg_trigslot);
			else
				log_delete(rel, relation, data->tg_trigslot);
		}
	}

	sau_registry_release(rel);
	return PointerGetDatum(NULL);
}
