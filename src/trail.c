/*
 * trail.c
 *		The log rows of one row, read straight from the log's leaves.
 *
 * Step of the path: history.c gives the key; each leaf of the table's log groups is asked for it
 * through its key index.  No plan is made over the log's partitions, which would cost more
 * than the reading.
 *
 * An UPDATE of the key ties two keys together.  From the key that was asked for, its
 * predecessors are followed back from the change on, its successors forward; under each,
 * as far as it was the same row's.  Under row security there is only the row that has
 * the key now.  What was logged while the primary key was of other columns is left out:
 * values that look the same there are another row's.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "executor/executor.h"
#include "miscadmin.h"
#include "softaudit.h"
#include "utils/fmgroids.h"
#include "utils/hsearch.h"
#include "utils/jsonb.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

/* A row of the log that has to do with a key. */
typedef struct Event
{
	int64		audit_id;
	int64		xid;
	HeapTuple	tuple;
	TupleDesc	desc;
	bool		arrives;		/* a row got the key: by INSERT, or from another key */
	bool		leaves;			/* a row gave it up: by a removal, or for another key */
	Jsonb	   *other;			/* the other key, where the log still has it */
	int64		other_ref;
} Event;

/* All that the log has of a key, oldest first. */
typedef struct KeyLog
{
	Jsonb	   *key;
	int64		ref;
	List	   *forms;			/* SauKeyForm */
	Event	   *events;
	int			n;
	int			cap;
} KeyLog;

typedef enum Stretch
{
	STRETCH_ALL,				/* whatever had the key */
	STRETCH_NOW,				/* the row that has it now */
	STRETCH_BEFORE,				/* the row that left it with an event */
	STRETCH_AFTER				/* the row that got it with an event */
} Stretch;

/* A key that is to be read, and how much of what the log has of it. */
typedef struct Segment
{
	Jsonb	   *key;
	int64		ref;
	Stretch		stretch;
	int64		at;				/* the event's audit_id */
	int64		xid;			/* and transaction */
} Segment;

/* Where a log row stands. */
typedef struct Place
{
	Oid			leaf;
	ItemPointerData tid;
} Place;

struct SauTrail
{
	SauRel	   *rel;
	char	  **image_key;
	int			n_image_key;
	int64		key_since;		/* log rows before this one have another key's values */
	bool		is_retyped;		/* keys have other forms, too */
	List	   *leaves;			/* of the log */
	List	   *keys;			/* KeyLog */
	KeyLog	   *truncates;		/* when the whole table was emptied; read at need */
	List	   *segments;
	SauTrailRow *rows;
	int			n;
	int			cap;
	HTAB	   *seen;			/* Place, so that a row is found once */
};

/* A bigint column of a log row that is not NULL. */
int64
sau_trail_int8(HeapTuple tuple, TupleDesc desc, int attno)
{
	bool		isnull;

	return DatumGetInt64(heap_getattr(tuple, attno, desc, &isnull));
}

/* A JSONB column's value, or NULL; in the current memory context, detoasted. */
Jsonb *
sau_trail_jsonb(HeapTuple tuple, TupleDesc desc, int attno)
{
	bool		isnull;
	Datum		d = heap_getattr(tuple, attno, desc, &isnull);

	return isnull ? NULL : DatumGetJsonbPCopy(d);
}

/* Is a key image the log's key, in one of its forms? */
static bool
is_key(KeyLog *log, Jsonb *key)
{
	ListCell   *lc;

	if (key == NULL)
		return false;
	if (sau_keyform_same(key, log->key))
		return true;
	foreach(lc, log->forms)
		if (sau_keyform_same(key, ((SauKeyForm *) lfirst(lc))->key))
			return true;
	return false;
}

static bool
is_ref(KeyLog *log, int64 ref)
{
	ListCell   *lc;

	foreach(lc, log->forms)
		if (((SauKeyForm *) lfirst(lc))->ref == ref)
			return true;
	return log->ref == ref;
}

/* A log row's key, and its old key if it changed; NULL where there is none. */
static void
keys_of_row(SauTrail *trail, HeapTuple tuple, TupleDesc desc, Jsonb **key, Jsonb **old_key)
{
	bool		changed = !heap_attisnull(tuple, SAU_LOG_OLD_ROW_REF, desc);

	*key = sau_trail_jsonb(tuple, desc, SAU_LOG_ROW_KEY);
	*old_key = changed ? sau_trail_jsonb(tuple, desc, SAU_LOG_OLD_ROW_KEY) : NULL;
	if (*key == NULL)
	{
		Jsonb	   *old_data = sau_trail_jsonb(tuple, desc, SAU_LOG_OLD_DATA);
		Jsonb	   *new_data = sau_trail_jsonb(tuple, desc, SAU_LOG_NEW_DATA);

		*key = sau_keyform_from_image(new_data ? new_data : old_data, trail->image_key, trail->n_image_key);
		if (changed)
			*old_key = sau_keyform_from_image(old_data, trail->image_key, trail->n_image_key);
	}
}

static void
add_segment(SauTrail *trail, Jsonb *key, int64 ref, Stretch stretch, int64 at, int64 xid)
{
	Segment    *s;
	ListCell   *lc;

	foreach(lc, trail->segments)
	{
		s = lfirst(lc);
		if (s->stretch == stretch && s->at == at)
			return;
	}
	s = palloc(sizeof(Segment));
	s->key = key;
	s->ref = ref;
	s->stretch = stretch;
	s->at = at;
	s->xid = xid;
	trail->segments = lappend(trail->segments, s);
}

static bool
is_operation(HeapTuple tuple, TupleDesc desc, const char *name)
{
	bool		isnull;
	text	   *operation = DatumGetTextPP(heap_getattr(tuple, SAU_LOG_OPERATION, desc, &isnull));

	return VARSIZE_ANY_EXHDR(operation) == strlen(name) &&
		memcmp(VARDATA_ANY(operation), name, strlen(name)) == 0;
}

/* A row of the log that erase() left without images and key. */
static bool
is_erased(HeapTuple tuple, TupleDesc desc)
{
	return heap_attisnull(tuple, SAU_LOG_NEW_DATA, desc) && heap_attisnull(tuple, SAU_LOG_OLD_DATA, desc) &&
		heap_attisnull(tuple, SAU_LOG_ROW_KEY, desc) && !is_operation(tuple, desc, "TRUNCATE");
}

/* What a row of the log has to do with a key; false if nothing. */
static bool
see_event(SauTrail *trail, KeyLog *log, HeapTuple tuple, TupleDesc desc, Event *event)
{
	int64		ref = sau_trail_int8(tuple, desc, SAU_LOG_ROW_REF);
	bool		changed = !heap_attisnull(tuple, SAU_LOG_OLD_ROW_REF, desc);
	int64		old_ref = changed ? sau_trail_int8(tuple, desc, SAU_LOG_OLD_ROW_REF) : ref;
	bool		is_now = false;
	bool		was_before = false;

	memset(event, 0, sizeof(*event));
	event->audit_id = sau_trail_int8(tuple, desc, SAU_LOG_AUDIT_ID);
	if (log->key != NULL && event->audit_id < trail->key_since)
		return false;
	if (log->key == NULL)
	{
		/* the table's own: a partition that was emptied does not tell whose keys it had */
		if (!is_operation(tuple, desc, "TRUNCATE") || !heap_attisnull(tuple, SAU_LOG_PARTITION_NAME, desc))
			return false;
	}
	else if (is_erased(tuple, desc))
	{
		/* the digest, which brought us here, is all there is */
		is_now = is_ref(log, ref);
		was_before = is_ref(log, old_ref);
	}
	else
	{
		Jsonb	   *key;
		Jsonb	   *old_key;

		keys_of_row(trail, tuple, desc, &key, &old_key);
		is_now = is_key(log, key);
		was_before = changed ? is_key(log, old_key) : is_now;
		event->other = is_now ? old_key : key;
		event->other_ref = is_now ? old_ref : ref;
	}
	if (log->key)
	{
		if (!is_now && !was_before)
			return false;
		event->arrives = is_now && (changed ? !was_before : is_operation(tuple, desc, "INSERT"));
		event->leaves = was_before && (changed ? !is_now :
									   is_operation(tuple, desc, "DELETE") || is_operation(tuple, desc, "PURGE") ||
									   is_operation(tuple, desc, "ERASE"));
	}
	event->xid = sau_trail_int8(tuple, desc, SAU_LOG_XID);
	event->tuple = heap_copytuple(tuple);
	event->desc = desc;
	return true;
}

static void
scan_index(SauTrail *trail, KeyLog *log, int64 ref, Relation leaf, Oid indexid, TupleDesc desc)
{
	Relation	index;
	IndexScanDesc scan;
	ScanKeyData key;
	TupleTableSlot *slot;

	if (!OidIsValid(indexid))
		return;
	index = index_open(indexid, AccessShareLock);
	slot = table_slot_create(leaf, NULL);
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(ref));
	scan = sau_compat_index_beginscan(leaf, index, GetActiveSnapshot(), 1);
	index_rescan(scan, &key, 1, NULL, 0);
	while (index_getnext_slot(scan, ForwardScanDirection, slot))
	{
		bool		should_free;
		HeapTuple	tuple = ExecFetchSlotHeapTuple(slot, false, &should_free);
		Event		event;

		CHECK_FOR_INTERRUPTS();
		if (see_event(trail, log, tuple, desc, &event))
		{
			if (log->n >= log->cap)
			{
				log->cap = Max(64, log->cap * 2);
				log->events = log->events ?
					repalloc_huge(log->events, log->cap * sizeof(Event)) :
					palloc(log->cap * sizeof(Event));
			}
			log->events[log->n++] = event;
		}
		if (should_free)
			heap_freetuple(tuple);
	}
	index_endscan(scan);
	ExecDropSingleTupleTableSlot(slot);
	index_close(index, AccessShareLock);
}

static void
scan_leaf(SauTrail *trail, KeyLog *log, Oid leafid)
{
	Relation	leaf = try_table_open(leafid, AccessShareLock);
	SauLeaf		info;
	TupleDesc	desc;
	ListCell   *lc;

	if (leaf == NULL)
		return;
	desc = CreateTupleDescCopy(RelationGetDescr(leaf));
	sau_partition_leaf_indexes(leaf, &info);
	scan_index(trail, log, log->ref, leaf, info.key_index, desc);
	scan_index(trail, log, log->ref, leaf, info.old_key_index, desc);
	foreach(lc, log->forms)
	{
		int64		ref = ((SauKeyForm *) lfirst(lc))->ref;

		scan_index(trail, log, ref, leaf, info.key_index, desc);
		scan_index(trail, log, ref, leaf, info.old_key_index, desc);
	}
	table_close(leaf, AccessShareLock);
}

/*
 * Where two log rows stand.  An audit_id is a log row's name as long as nobody set the sequence back, or
 * took the log over from elsewhere without it; that must cost no row of a history.
 */
static int
compare_places(HeapTuple a, HeapTuple b)
{
	if (a->t_tableOid != b->t_tableOid)
		return a->t_tableOid < b->t_tableOid ? -1 : 1;
	return ItemPointerCompare(&a->t_self, &b->t_self);
}

static int
compare_events(const void *a, const void *b)
{
	int64		ia = ((const Event *) a)->audit_id;
	int64		ib = ((const Event *) b)->audit_id;

	return ia != ib ? (ia < ib ? -1 : 1) : compare_places(((const Event *) a)->tuple, ((const Event *) b)->tuple);
}

static int
compare_rows(const void *a, const void *b)
{
	int64		ia = ((const SauTrailRow *) a)->audit_id;
	int64		ib = ((const SauTrailRow *) b)->audit_id;

	return ia != ib ? (ia < ib ? -1 : 1) : compare_places(((const SauTrailRow *) a)->tuple, ((const SauTrailRow *) b)->tuple);
}

/* Read what the log has of a key; with NULL for it, the TRUNCATEs of the whole table. */
static KeyLog *
read_key(SauTrail *trail, Jsonb *key, int64 ref)
{
	KeyLog	   *log = palloc0(sizeof(KeyLog));
	ListCell   *lc;
	int			n = 0;

	log->key = key;
	log->ref = ref;
	if (key && trail->is_retyped)
		log->forms = sau_keyform_others(trail->rel->table_id, key);
	foreach(lc, trail->leaves)
		scan_leaf(trail, log, lfirst_oid(lc));
	if (log->n > 1)
		qsort(log->events, log->n, sizeof(Event), compare_events);
	/* a change between keys that share a digest is found by both indexes, forms may share one, too */
	for (int i = 0; i < log->n; i++)
		if (n == 0 || compare_events(&log->events[n - 1], &log->events[i]) != 0)
			log->events[n++] = log->events[i];
	log->n = n;
	return log;
}

static KeyLog *
log_of_key(SauTrail *trail, Jsonb *key, int64 ref)
{
	KeyLog	   *log;
	ListCell   *lc;

	foreach(lc, trail->keys)
	{
		log = lfirst(lc);
		if (is_ref(log, ref) && is_key(log, key))
			return log;
	}
	log = read_key(trail, key, ref);
	trail->keys = lappend(trail->keys, log);
	return log;
}

/* The audit_id of the last TRUNCATE before an event, or of the first one after it. */
static int64
truncate_near(SauTrail *trail, int64 at, bool before)
{
	int64		near = before ? PG_INT64_MIN : PG_INT64_MAX;
	KeyLog	   *log;

	if (trail->truncates == NULL)
		trail->truncates = read_key(trail, NULL, (int64) ((uint64) (uint32) trail->rel->table_id << 32));
	log = trail->truncates;
	for (int i = 0; i < log->n; i++)
		if (before ? log->events[i].audit_id < at : log->events[i].audit_id > at && near == PG_INT64_MAX)
			near = log->events[i].audit_id;
	return near;
}

/*
 * Where does the stretch of the row begin that had the key just before events[end], in
 * transaction "xid"?  Since the last row that left the key; since the last that got it, if
 * that was in another transaction, at whose end no two rows can have had it.  Within one, rows
 * may share a key that is checked later: one that left may have left it to a row that came first.
 */
static int
begin_of_stretch(KeyLog *log, int end, int64 xid, int64 truncated)
{
	bool		seen_arrival = false;

	for (int i = end - 1; i >= 0; i--)
	{
		Event	   *event = &log->events[i];

		if (event->audit_id < truncated)
			return i + 1;
		if (event->leaves)
		{
			for (int j = i - 1; !seen_arrival && j >= 0; j--)
			{
				if (log->events[j].leaves || log->events[j].xid != event->xid)
					break;
				if (log->events[j].arrives)
					return j;
			}
			return i + 1;
		}
		if (event->arrives && event->xid != xid)
			return i;
		seen_arrival = seen_arrival || event->arrives;
	}
	return 0;
}

/*
 * Where does the stretch of the row end that got the key with events[begin]?  The counterpart:
 * the first row that leaves the key is the other one, where that was there still.
 */
static int
end_of_stretch(KeyLog *log, int begin, int64 truncated_before, int64 truncated)
{
	Event	   *before = begin > 0 ? &log->events[begin - 1] : NULL;
	bool		shared = before && !before->leaves && before->audit_id > truncated_before;
	int64		xid = log->events[begin].xid;

	for (int i = begin + 1; i < log->n; i++)
	{
		Event	   *event = &log->events[i];

		if (event->audit_id > truncated)
			return i;
		if (event->leaves)
		{
			if (!shared || event->xid != xid)
				return i + 1;
			shared = false;
		}
		else if (event->arrives)
		{
			int			next = i + 1;

			while (next < log->n && log->events[next].xid == event->xid && !log->events[next].leaves)
				next++;
			return next < log->n && log->events[next].xid == event->xid ? next + 1 : i;
		}
	}
	return log->n;
}

static void
take_event(SauTrail *trail, Event *event)
{
	Place		place = {0};
	bool		seen;

	place.leaf = event->tuple->t_tableOid;
	ItemPointerCopy(&event->tuple->t_self, &place.tid);
	hash_search(trail->seen, &place, HASH_ENTER, &seen);
	if (seen)
		return;
	if (trail->n >= trail->cap)
	{
		trail->cap = Max(64, trail->cap * 2);
		trail->rows = trail->rows ?
			repalloc_huge(trail->rows, trail->cap * sizeof(SauTrailRow)) :
			palloc(trail->cap * sizeof(SauTrailRow));
	}
	trail->rows[trail->n].audit_id = event->audit_id;
	trail->rows[trail->n].tuple = event->tuple;
	trail->rows[trail->n++].desc = event->desc;
}

/* Take the events of a segment, and see where its row came from or went. */
static void
read_segment(SauTrail *trail, Segment *segment)
{
	KeyLog	   *log = log_of_key(trail, segment->key, segment->ref);
	int			begin = 0;
	int			end = log->n;
	int			at = 0;

	while (at < log->n && log->events[at].audit_id < segment->at)
		at++;
	switch (segment->stretch)
	{
		case STRETCH_ALL:
			break;
		case STRETCH_NOW:
		case STRETCH_BEFORE:
			end = at;
			begin = begin_of_stretch(log, end, segment->xid, truncate_near(trail, segment->at, true));
			break;
		case STRETCH_AFTER:
			if (at >= log->n)
				return;
			begin = at;
			end = end_of_stretch(log, begin, truncate_near(trail, segment->at, true),
								 truncate_near(trail, segment->at, false));
			break;
	}
	for (int i = begin; i < end; i++)
	{
		Event	   *event = &log->events[i];

		/* within a row's stretch, whoever else comes or goes is another row */
		if (segment->stretch != STRETCH_ALL &&
			((event->arrives && i > begin) ||
			 (event->leaves && (segment->stretch != STRETCH_AFTER || i < end - 1))))
			continue;
		take_event(trail, event);
		if (event->other == NULL)
			continue;
		if (event->arrives && segment->stretch != STRETCH_AFTER)
			add_segment(trail, event->other, event->other_ref, STRETCH_BEFORE, event->audit_id, event->xid);
		if (event->leaves)
			add_segment(trail, event->other, event->other_ref, STRETCH_AFTER, event->audit_id, event->xid);
	}
}

/*
 * Read the log rows of the row with a key: of any that had it, or of the one that has it now.  Rows
 * before "key_since" had another primary key; "is_retyped" tells that keys may have other forms.
 * All that is found is in the current memory context.
 */
SauTrail *
sau_trail_read(SauRel *rel, Jsonb *key, int64 ref, bool only_now, int64 key_since, bool is_retyped)
{
	SauTrail   *trail = palloc0(sizeof(SauTrail));
	HASHCTL		ctl = {0};
	int			ngroups;
	int32	   *groups = sau_entry_groups(rel->table_id, &ngroups);

	trail->rel = rel;
	trail->image_key = sau_entry_image_key(rel->table_id, &trail->n_image_key);
	trail->key_since = key_since;
	trail->is_retyped = is_retyped;
	ctl.keysize = sizeof(Place);
	ctl.entrysize = sizeof(Place);
	ctl.hcxt = CurrentMemoryContext;
	trail->seen = hash_create("softaudit history", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	for (int i = 0; i < ngroups; i++)
		trail->leaves = list_concat(trail->leaves, sau_partition_leaves(groups[i]));
	add_segment(trail, key, ref, only_now ? STRETCH_NOW : STRETCH_ALL, PG_INT64_MAX, 0);
	/* segments grow while they are read */
	for (int i = 0; i < list_length(trail->segments); i++)
		read_segment(trail, list_nth(trail->segments, i));
	if (trail->n > 1)
		qsort(trail->rows, trail->n, sizeof(SauTrailRow), compare_rows);
	return trail;
}

/* What was found, oldest first. */
SauTrailRow *
sau_trail_rows(SauTrail *trail, int *n)
{
	*n = trail->n;
	return trail->rows;
}

/* The key that a row has by one of its log rows; NULL if there is none. */
Jsonb *
sau_trail_key(SauTrail *trail, SauTrailRow *row)
{
	Jsonb	   *key;
	Jsonb	   *old_key;

	keys_of_row(trail, row->tuple, row->desc, &key, &old_key);
	return key;
}
