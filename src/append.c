/*
 * append.c
 *		Log rows into their leaf: heap and indexes, in bulk.
 *
 * Step of the path: log.c flushes its buffer; here are the tuples of one log group and one
 * command.  They go in by the table access method, page by page, and their index entries
 * in key order.
 *
 * Rows are appended at the end: the free space map would have them fill what is left in old
 * pages, each of which would be read, dirtied and written to the WAL for it.  A session
 * that goes on writing has its leaf extended by several pages at once and fills them
 * alone (a "supply"); so a page costs no system call of its own, and writers do not
 * meet on one.  What a session leaves of its supply stays empty, at most a quarter of what it wrote.
 *
 * A supply is a guess that the file bears out: whether its pages are still there is asked under the
 * leaf's lock, and a row that turns out not to fit goes where PostgreSQL puts it.
 *
 * Lock order: the leaf, its indexes.  Nothing here runs user code, but for the expressions of
 * an index that somebody added to a leaf.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/heaptoast.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "executor/executor.h"
#include "softaudit.h"
#include "storage/bufmgr.h"
#include "storage/bufpage.h"
#include "utils/memutils.h"
#include "utils/rel.h"

#define INSERT_OPTIONS	TABLE_INSERT_SKIP_FSM

/* Rows given to one table_multi_insert(). */
#define CHUNK_ROWS		100

/* Pages that a session may have ready beyond what it is about to write. */
#define MAX_SPARE		16

/* What a page offers to rows, and what a row takes of it. */
#define PAGE_ROOM		((Size) (BLCKSZ - SizeOfPageHeaderData))
#define ROW_SPACE(len)	(MAXALIGN(len) + sizeof(ItemIdData))

/* Where a session appends in one leaf. */
typedef struct Supply
{
	Oid			relid;
	Oid			filenode;		/* the file, which VACUUM FULL replaces */
	BlockNumber current;		/* the page being filled, or InvalidBlockNumber */
	Size		room;			/* what is thought to be left of it */
	BlockNumber next;			/* pages not begun: next .. end - 1 */
	BlockNumber end;
	int			filled;			/* pages begun so far */
} Supply;

#define SUPPLIES	4

static Supply supplies[SUPPLIES];
static int	last_supply = 0;

static MemoryContext slot_cxt = NULL;
static TupleTableSlot *slots[CHUNK_ROWS];
static int	n_slots = 0;
static TupleDesc slot_desc = NULL;

/* Set up; called once when the library is loaded. */
void
sau_append_init(void)
{
	slot_cxt = AllocSetContextCreate(TopMemoryContext, "softaudit log slots", ALLOCSET_DEFAULT_SIZES);
}

/*
 * Give tuples to the table access method without a copy: a slot that claims to own
 * its tuple is not materialized again.  The claim is taken back before the slot is
 * cleared, since the tuple is the caller's.  An error amid a multi-insert leaves slots
 * that claim what is not theirs; this makes them let go.
 */
void
sau_append_reset(void)
{
	for (int i = 0; i < n_slots; i++)
		slots[i]->tts_flags &= ~TTS_FLAG_SHOULDFREE;
}

/* ---- pages ---- */

static Supply *
supply_of(Relation leaf)
{
	Oid			relid = RelationGetRelid(leaf);
	Oid			filenode = leaf->rd_rel->relfilenode;
	Supply	   *supply = &supplies[last_supply];

	if (supply->relid == relid && supply->filenode == filenode)
		return supply;
	for (int i = 0; i < SUPPLIES; i++)
		if (supplies[i].relid == relid && supplies[i].filenode == filenode)
		{
			last_supply = i;
			return &supplies[i];
		}
	last_supply = (last_supply + 1) % SUPPLIES;
	supply = &supplies[last_supply];
	memset(supply, 0, sizeof(Supply));
	supply->relid = relid;
	supply->filenode = filenode;
	supply->current = InvalidBlockNumber;
	return supply;
}

/*
 * See to it that rows go where the supply says.  "more" is the space that the rows
 * under way will take.  Returns false where PostgreSQL is to choose.
 */
static bool
aim(Supply *supply, Relation leaf, Size first_row, Size more)
{
	if (supply->current != InvalidBlockNumber && first_row <= supply->room)
	{
		/* an invalidation lets the target go; meanwhile VACUUM may have cut the file */
		if (RelationGetTargetBlock(leaf) == supply->current)
			return true;
		if (supply->current < RelationGetNumberOfBlocks(leaf))
		{
			RelationSetTargetBlock(leaf, supply->current);
			return true;
		}
		supply->current = InvalidBlockNumber;
	}
	if (supply->next < supply->end && supply->end > RelationGetNumberOfBlocks(leaf))
		supply->next = supply->end;
	if (supply->next >= supply->end)
	{
		int			pages = Max(Min(supply->filled / 4, MAX_SPARE), (int) Min(more / PAGE_ROOM, SAU_EXTEND_MAX));

		if (pages < 2)
			return false;
		pages = sau_extend_by(leaf, pages, &supply->next);
		supply->end = supply->next + pages;
		if (pages == 0)
			return false;
	}
	supply->current = supply->next++;
	supply->room = PAGE_ROOM - RelationGetTargetPageFreeSpace(leaf, HEAP_DEFAULT_FILLFACTOR);
	supply->filled++;
	RelationSetTargetBlock(leaf, supply->current);
	return true;
}

/* Note that a row went to a page. */
static inline void
note(Supply *supply, const ItemPointerData *tid, Size space)
{
	BlockNumber block = ItemPointerGetBlockNumber(tid);

	if (block != supply->current)
	{
		supply->current = block;
		supply->room = PAGE_ROOM;
		supply->filled++;
	}
	supply->room -= Min(space, supply->room);
}

/* Note that a row of unknown size went to a page: TOAST may have left little of it. */
static void
note_toasted(Supply *supply, Relation leaf, const ItemPointerData *tid)
{
	Buffer		buffer = ReadBuffer(leaf, ItemPointerGetBlockNumber(tid));
	Size		room;

	LockBuffer(buffer, BUFFER_LOCK_SHARE);
	room = PageGetExactFreeSpace(BufferGetPage(buffer));
	UnlockReleaseBuffer(buffer);
	note(supply, tid, 0);
	supply->room = room;
}

/* ---- the heap ---- */

static inline void
set_tuple(HeapTuple tuple, const SauLogTuple *row, Relation leaf)
{
	tuple->t_len = row->len;
	tuple->t_data = row->header;
	tuple->t_tableOid = RelationGetRelid(leaf);
	ItemPointerSetInvalid(&tuple->t_self);
}

/* All at once, so that a session holds no more after its largest statement than after its first.  Leaves are all alike. */
static void
make_slots(Relation leaf)
{
	MemoryContext old = MemoryContextSwitchTo(slot_cxt);

	if (slot_desc == NULL)
		slot_desc = CreateTupleDescCopy(RelationGetDescr(leaf));
	for (; n_slots < CHUNK_ROWS; n_slots++)
		slots[n_slots] = MakeSingleTupleTableSlot(slot_desc, &TTSOpsHeapTuple);
	MemoryContextSwitchTo(old);
}

static void
insert_chunk(Relation leaf, const SauLogTuple *rows, int n, CommandId cid, ItemPointerData *tids)
{
	HeapTupleData tuples[CHUNK_ROWS];

	if (unlikely(n_slots < CHUNK_ROWS))
		make_slots(leaf);
	for (int i = 0; i < n; i++)
	{
		set_tuple(&tuples[i], &rows[i], leaf);
		ExecStoreHeapTuple(&tuples[i], slots[i], false);
		slots[i]->tts_flags |= TTS_FLAG_SHOULDFREE;
	}
	table_multi_insert(leaf, slots, n, cid, INSERT_OPTIONS, NULL);
	for (int i = 0; i < n; i++)
	{
		tids[i] = slots[i]->tts_tid;
		slots[i]->tts_flags &= ~TTS_FLAG_SHOULDFREE;
		ExecClearTuple(slots[i]);
	}
}

static void
insert_heap(Relation leaf, const SauLogTuple *rows, int n, CommandId cid, ItemPointerData *tids)
{
	Supply	   *supply = supply_of(leaf);
	Size		more = 0;

	for (int i = 0; i < n; i++)
		more += ROW_SPACE(rows[i].len);
	for (int done = 0; done < n;)
	{
		int			chunk = 1;
		Size		space = ROW_SPACE(rows[done].len);

		if (rows[done].len > TOAST_TUPLE_THRESHOLD)
			;					/* to wherever the last row went, if it fits */
		else if (aim(supply, leaf, space, more))
			for (; chunk < CHUNK_ROWS && done + chunk < n; chunk++)
			{
				if (rows[done + chunk].len > TOAST_TUPLE_THRESHOLD ||
					space + ROW_SPACE(rows[done + chunk].len) > supply->room)
					break;
				space += ROW_SPACE(rows[done + chunk].len);
			}
		else
			chunk = Min(CHUNK_ROWS, n - done);

		if (chunk == 1)
		{
			HeapTupleData tuple;

			set_tuple(&tuple, &rows[done], leaf);
			heap_insert(leaf, &tuple, cid, INSERT_OPTIONS, NULL);
			tids[done] = tuple.t_self;
		}
		else
			insert_chunk(leaf, rows + done, chunk, cid, tids + done);

		for (int i = done; i < done + chunk; i++)
		{
			more -= ROW_SPACE(rows[i].len);
			if (rows[i].len > TOAST_TUPLE_THRESHOLD)
				note_toasted(supply, leaf, &tids[i]);
			else
				note(supply, &tids[i], ROW_SPACE(rows[i].len));
		}
		done += chunk;
	}
}

/* ---- the indexes ---- */

typedef struct IndexEntry
{
	int64		ref;
	ItemPointerData tid;
} IndexEntry;

static int
compare_entries(const void *a, const void *b)
{
	const IndexEntry *ea = a;
	const IndexEntry *eb = b;

	if (ea->ref != eb->ref)
		return ea->ref < eb->ref ? -1 : 1;
	return ItemPointerCompare((ItemPointer) &ea->tid, (ItemPointer) &eb->tid);
}

/* Insert entries in key order, so that neighbours find their page at hand. */
static void
insert_entries(Oid indexid, Relation leaf, IndexEntry *entries, int n)
{
	Relation	index = index_open(indexid, RowExclusiveLock);
	IndexInfo  *info = makeNode(IndexInfo);
	bool		isnull = false;

	/* btree asks nothing of IndexInfo for a plain insert */
	info->ii_NumIndexAttrs = info->ii_NumIndexKeyAttrs = 1;
	info->ii_Am = index->rd_rel->relam;
	info->ii_Context = CurrentMemoryContext;
	if (n > 1)
		qsort(entries, n, sizeof(IndexEntry), compare_entries);
	for (int i = 0; i < n; i++)
	{
		Datum		value = Int64GetDatum(entries[i].ref);

		index_insert(index, &value, &isnull, &entries[i].tid, leaf, UNIQUE_CHECK_NO, false, info);
	}
	sau_compat_index_insert_done(index, info);
	index_close(index, NoLock);
}

/* An index that somebody added to the leaf: by the general code. */
static void
insert_other_indexes(Relation leaf, const SauLeaf *info, const SauLogTuple *rows,
					 const ItemPointerData *tids, int n)
{
	EState	   *estate = CreateExecutorState();
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(leaf), &TTSOpsHeapTuple);
	List	   *indexes = RelationGetIndexList(leaf);
	ListCell   *lc;

	GetPerTupleExprContext(estate)->ecxt_scantuple = slot;
	foreach(lc, indexes)
	{
		Relation	index;
		IndexInfo  *ii;
		ExprState  *predicate;

		if (lfirst_oid(lc) == info->key_index || lfirst_oid(lc) == info->old_key_index)
			continue;
		index = index_open(lfirst_oid(lc), RowExclusiveLock);
		ii = BuildIndexInfo(index);
		if (!ii->ii_ReadyForInserts)
		{
			index_close(index, NoLock);
			continue;
		}
		predicate = ExecPrepareQual(ii->ii_Predicate, estate);
		for (int i = 0; i < n; i++)
		{
			HeapTupleData tuple;
			Datum		values[INDEX_MAX_KEYS];
			bool		isnull[INDEX_MAX_KEYS];

			set_tuple(&tuple, &rows[i], leaf);
			tuple.t_self = tids[i];
			ExecStoreHeapTuple(&tuple, slot, false);
			if (predicate == NULL || ExecQual(predicate, GetPerTupleExprContext(estate)))
			{
				FormIndexDatum(ii, slot, estate, values, isnull);
				index_insert(index, values, isnull, &tuple.t_self, leaf,
							 ii->ii_Unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, false, ii);
			}
			ResetPerTupleExprContext(estate);
		}
		sau_compat_index_insert_done(index, ii);
		index_close(index, NoLock);
	}
	ExecDropSingleTupleTableSlot(slot);
	FreeExecutorState(estate);
}

/*
 * Insert rows of one log group and one command, with their index entries.  Their
 * memory is the caller's and stays as it is, but for the headers, which the heap fills in.
 */
void
sau_append_rows(int32 log_group, CommandId cid, const SauLogTuple *rows, int n)
{
	SauLeaf		info;
	Relation	leaf = sau_partition_open(log_group, GetCurrentTransactionStartTimestamp(), &info);
	ItemPointerData tid_one;
	ItemPointerData *tids = n == 1 ? &tid_one : palloc(n * sizeof(ItemPointerData));
	IndexEntry	entry_one;
	IndexEntry *entries = n == 1 ? &entry_one : palloc(n * sizeof(IndexEntry));
	int			m = 0;

	insert_heap(leaf, rows, n, cid, tids);

	if (OidIsValid(info.key_index))
	{
		for (int i = 0; i < n; i++)
		{
			entries[i].ref = rows[i].row_ref;
			entries[i].tid = tids[i];
		}
		insert_entries(info.key_index, leaf, entries, n);
	}
	if (OidIsValid(info.old_key_index))
	{
		for (int i = 0; i < n; i++)
		{
			if (!rows[i].key_changed)
				continue;
			entries[m].ref = rows[i].old_row_ref;
			entries[m++].tid = tids[i];
		}
		if (m > 0)
			insert_entries(info.old_key_index, leaf, entries, m);
	}
	if (unlikely(info.has_other_indexes))
		insert_other_indexes(leaf, &info, rows, tids, n);
	table_close(leaf, NoLock);
}
