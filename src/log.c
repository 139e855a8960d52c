/*
 * log.c
 *		The buffer of captured rows, and its way into the log.
 *
 * Step of the path: capture lays a log row down here, as the heap tuple it will
 * be; a flush gives the rows their ids and appends them to their leaf in bulk.
 *
 * A row of the buffer belongs to the subtransaction that captured it and dies with
 * it.  It has the command id of its capture, so that whoever would see the change
 * sees the log row, however late it is flushed.
 *
 * Rows are flushed
 *	- at the end of the statement that they were captured in, unless the transaction
 *	  goes on and few wait (sau_log_statement_flush()),
 *	- when MAX_ROWS or MAX_BYTES are waiting,
 *	- before a query or utility command starts that could read the log,
 *	- before the transaction commits or is prepared.
 *
 * A flush within a subtransaction inserts with that one's id.  Rows that an outer
 * one captured would die with it.  So the first two write what the subtransaction at
 * work captured itself, and leave the outer ones' rows waiting.  A reader needs them
 * all: those that a subtransaction inserts for an outer one are kept in the buffer as
 * "flushed in" it until it ends, and wait again when it aborts.
 *
 * Ids are taken at the flush, in blocks: after the locks on all rows concerned are
 * held, and before any of them is given up.  So for each row of a table the order of
 * the ids is the order of its changes, in one transaction and across them.  Rows that
 * are left waiting are numbered all the same, since they come before those written.
 *
 * Lock order: the id sequence, then what append.c locks.  Nothing here runs user code.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/xact.h"
#include "softaudit.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"

#define MAX_ROWS		1000
#define MAX_BYTES		(1024 * 1024)

/* As long as fewer wait, they may wait past the end of their statement. */
#define DEFER_ROWS		500

/* The buffer keeps at most this much when it is empty. */
#define KEEP_BYTES		(4 * 1024 * 1024)

/* What one value of the id sequence stands for; its INCREMENT in the SQL script. */
#define IDS_PER_BLOCK	16

/*
 * Where a row's data starts.  An INSERT or UPDATE whose images hold its key has no
 * NULL before its last column, and what follows is NULL by being absent: it needs no
 * null bitmap, which saves eight bytes.
 */
#define PLAIN_HOFF		MAXALIGN(SizeofHeapTupleHeader)
#define FULL_HOFF		MAXALIGN(SizeofHeapTupleHeader + BITMAPLEN(SAU_LOG_NATTS))

typedef struct LogRow
{
	Size		off;			/* of the tuple in the arena */
	uint32		len;
	CommandId	cid;
	SubTransactionId sub;		/* captured it */
	SubTransactionId flushed_in;	/* inserted it, if not the same; else invalid */
	int			depth;			/* statement nesting at capture */
	int16		log_group;
	uint8		hoff;
	int64		row_ref;
	int64		old_row_ref;
	bool		key_changed;
	bool		waiting;
} LogRow;

static MemoryContext log_cxt = NULL;
static SauBuf arena;
static LogRow *rows = NULL;
static int	n_rows = 0;
static int	cap_rows = 0;
static int	n_numbered = 0;		/* the rows before have their ids */
int			sau_log_waiting = 0;	/* captured rows that are not in the log yet */
static Size waiting_bytes = 0;
static bool any_lent = false;	/* some may be flushed in an inner subtransaction */

/* What may wait: MAX_ROWS and MAX_BYTES; in "limit_sub" beyond what outer ones left. */
static int	rows_limit = MAX_ROWS;
static Size bytes_limit = MAX_BYTES;
static SubTransactionId limit_sub = InvalidSubTransactionId;

/* Where the rows of a subtransaction begin, which are the last ones while it is at work. */
static SubTransactionId own_sub = InvalidSubTransactionId;
static int	own_first = 0;

/* Where the row being laid down starts, and where its open field does. */
static Size row_start;
static Size field_unaligned;
static Size field_start;
static LogRow current;
static bool laying_down = false;	/* a row is begun and not ended */

/* Nesting of the statements that our hooks see, and the number of each that is under way. */
#define MAX_SERIALS	64

static int	statement_depth = 0;
static uint64 statement_count = 0;
static uint64 serials[MAX_SERIALS];

/* Counts whatever may change the answer to "who acts". */
uint64		sau_log_activity = 1;
static uint64 actor_activity = 0;
static char *actor_name = NULL;
static int	actor_len = 0;
static int64 actor_session = 0;

static bool flushing = false;

static void make_room(void);

/* Set up the buffer; called once when the library is loaded. */
void
sau_log_init(void)
{
	log_cxt = AllocSetContextCreate(TopMemoryContext, "softaudit log buffer",
									ALLOCSET_DEFAULT_SIZES);
	arena.cxt = log_cxt;
}

/* How deep in statements we are, as far as our hooks see. */
int
sau_log_depth(void)
{
	return statement_depth;
}

/* Whether rows wait that were captured outside every statement our hooks saw begin. */
bool
sau_log_has_unhooked(void)
{
	return statement_depth == 0 && sau_log_waiting > 0 && rows[n_rows - 1].depth == 0;
}

static void
refresh_actor(void)
{
	const char *name = sau_actor_name();
	int			len = strlen(name);

	if (actor_name == NULL || strcmp(actor_name, name) != 0)
	{
		char	   *copy = MemoryContextStrdup(log_cxt, name);

		if (actor_name)
			pfree(actor_name);
		actor_name = copy;
		actor_len = len;
	}
	actor_session = sau_actor_session();
	actor_activity = sau_log_activity;
}

/* ---- laying a row down ---- */

static inline void
put_raw(const void *p, Size n)
{
	memcpy(arena.data + arena.len, p, n);
	arena.len += n;
}

/*
 * Start a log row and return the buffer, in which the caller appends the row's
 * fields, in the order of the log's columns, between field_begin and field_end.
 * "is_plain" promises that of the columns after changed_by it will have just new_data
 * or new_data and old_data.
 */
SauBuf *
sau_log_begin(SauRel *rel, SauOperation op, bool is_plain)
{
	static const char *const names[] = {"INSERT", "UPDATE", "DELETE", "TRUNCATE", "SOFT_DELETE", "RESTORE", "PURGE", "ERASE"};
	HeapTupleHeader header;
	int64		zero = 0;
	int64		changed_at;
	int64		xid;

	if (flushing || laying_down)
		ereport(ERROR,
				(errcode(ERRCODE_TRIGGERED_ACTION_EXCEPTION),
				 errmsg("an audited table was changed while a change was being logged"),
				 errhint("A cast to json, an output function or an index expression must not write.")));
	if (sau_log_waiting >= rows_limit || waiting_bytes >= bytes_limit)
		make_room();
	if (actor_activity != sau_log_activity || n_rows == 0)
		refresh_actor();

	laying_down = true;
	memset(&current, 0, sizeof(current));
	current.cid = GetCurrentCommandId(true);
	current.sub = GetCurrentSubTransactionId();
	current.flushed_in = InvalidSubTransactionId;
	current.depth = statement_depth;
	current.log_group = rel->log_group;
	current.hoff = is_plain ? PLAIN_HOFF : FULL_HOFF;
	current.row_ref = (int64) ((uint64) (uint32) rel->table_id << 32);

	/* What an error left of a row that was never ended goes, too. */
	arena.len = n_rows > 0 ? MAXALIGN(rows[n_rows - 1].off + rows[n_rows - 1].len) : 0;
	row_start = arena.len;
	sau_buf_reserve(&arena, FULL_HOFF + 256);
	memset(arena.data + row_start, 0, current.hoff);
	header = (HeapTupleHeader) (arena.data + row_start);
	header->t_infomask = HEAP_HASVARWIDTH;
	if (is_plain)
		HeapTupleHeaderSetNatts(header, op == SAU_INSERT ? SAU_LOG_NEW_DATA : SAU_LOG_OLD_DATA);
	else
	{
		header->t_infomask |= HEAP_HASNULL;
		HeapTupleHeaderSetNatts(header, SAU_LOG_NATTS);
		header->t_bits[0] = 0xFF;	/* up to changed_by; the rest as they come */
	}
	header->t_hoff = current.hoff;
	ItemPointerSetInvalid(&header->t_ctid);
	arena.len += current.hoff;

	changed_at = GetCurrentTransactionStartTimestamp();
	xid = (int64) U64FromFullTransactionId(GetTopFullTransactionId());
	put_raw(&zero, sizeof(int64));	/* audit_id, at the flush */
	put_raw(&changed_at, sizeof(int64));
	put_raw(&xid, sizeof(int64));
	put_raw(&actor_session, sizeof(int64));
	put_raw(&current.row_ref, sizeof(int64));	/* made whole by the key */
	put_raw(&rel->log_group, sizeof(int16));
	sau_log_text(SAU_LOG_OPERATION, names[op]);
	sau_log_text(SAU_LOG_CHANGED_BY, actor_name);
	return &arena;
}

static inline void
mark_present(int attno)
{
	HeapTupleHeader header = (HeapTupleHeader) (arena.data + row_start);

	if (header->t_infomask & HEAP_HASNULL)
		header->t_bits[(attno - 1) >> 3] |= 1 << ((attno - 1) & 7);
}

/* Open a varlena field with a four-byte header, which the caller writes. */
void
sau_log_field_begin(void)
{
	field_unaligned = arena.len;
	sau_buf_align4(&arena);
	field_start = arena.len;
}

/*
 * Close the field that holds column "attno"; a short value gets a short header, as
 * heap_fill_tuple() would give it.
 */
void
sau_log_field_end(int attno)
{
	char	   *field = arena.data + field_start;
	Size		len = arena.len - field_start;

	Assert(VARSIZE(field) == len);
	if (len - VARHDRSZ + VARHDRSZ_SHORT <= VARATT_SHORT_MAX)
	{
		char	   *to = arena.data + field_unaligned;

		memmove(to + VARHDRSZ_SHORT, field + VARHDRSZ, len - VARHDRSZ);
		SET_VARSIZE_SHORT(to, len - VARHDRSZ + VARHDRSZ_SHORT);
		arena.len = field_unaligned + len - VARHDRSZ + VARHDRSZ_SHORT;
	}
	mark_present(attno);
}

/* Set the number that the row is indexed by, or the one of its old key. */
void
sau_log_ref(int attno, int64 ref)
{
	if (attno == SAU_LOG_ROW_REF)
	{
		current.row_ref = ref;
		memcpy(arena.data + row_start + current.hoff + 4 * sizeof(int64), &ref, sizeof(ref));
		return;
	}
	current.old_row_ref = ref;
	current.key_changed = true;
	sau_buf_reserve(&arena, MAXIMUM_ALIGNOF + sizeof(ref));
	while (arena.len != MAXALIGN(arena.len))
		arena.data[arena.len++] = 0;
	put_raw(&ref, sizeof(ref));
	mark_present(attno);
}

/* Append a text column. */
void
sau_log_text(int attno, const char *text)
{
	Size		len = (text == actor_name) ? (Size) actor_len : strlen(text);

	if (len + VARHDRSZ_SHORT <= VARATT_SHORT_MAX)
	{
		sau_buf_reserve(&arena, len + VARHDRSZ_SHORT);
		SET_VARSIZE_SHORT(arena.data + arena.len, len + VARHDRSZ_SHORT);
		memcpy(arena.data + arena.len + VARHDRSZ_SHORT, text, len);
		arena.len += len + VARHDRSZ_SHORT;
		mark_present(attno);
	}
	else
	{
		sau_log_field_begin();
		sau_buf_reserve(&arena, len + VARHDRSZ);
		SET_VARSIZE(arena.data + arena.len, len + VARHDRSZ);
		memcpy(arena.data + arena.len + VARHDRSZ, text, len);
		arena.len += len + VARHDRSZ;
		sau_log_field_end(attno);
	}
}

/* Enter the row that was laid down. */
void
sau_log_end(void)
{
	Size		len = arena.len - row_start;

	if (len > MaxAllocSize)
		ereport(ERROR,
				(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
				 errmsg("the audit record of one row takes %zu bytes, more than a tuple can hold", len),
				 errhint("Exclude the largest columns with softaudit.enable(..., exclude => ...).")));
	if (n_rows >= cap_rows)
	{
		int			cap = Max(64, cap_rows * 2);

		rows = rows ? repalloc(rows, cap * sizeof(LogRow)) :
			MemoryContextAlloc(log_cxt, cap * sizeof(LogRow));
		cap_rows = cap;
	}
	current.off = row_start;
	current.len = (uint32) len;
	current.waiting = true;
	rows[n_rows++] = current;
	sau_log_waiting++;
	waiting_bytes += len;
	sau_buf_reserve(&arena, MAXIMUM_ALIGNOF);
	memset(arena.data + arena.len, 0, MAXALIGN(arena.len) - arena.len);
	arena.len = MAXALIGN(arena.len);
	laying_down = false;
}

/* ---- the way into the leaf ---- */

/* Number the rows in the order of their capture. */
static void
assign_ids(void)
{
	int64		next = 0;
	int			left = 0;

	for (; n_numbered < n_rows; n_numbered++)
	{
		LogRow	   *row = &rows[n_numbered];

		if (left == 0)
		{
			next = sau_objects_nextval("log_audit_id_seq");
			left = IDS_PER_BLOCK;
		}
		memcpy(arena.data + row->off + row->hoff, &next, sizeof(next));
		next++;
		left--;
	}
}

/* Where the rows begin that the subtransaction at work captured, or inherited. */
static int
first_own(void)
{
	SubTransactionId sub = GetCurrentSubTransactionId();

	if (own_sub != sub)
	{
		own_sub = sub;
		for (own_first = n_rows; own_first > 0 && rows[own_first - 1].sub == sub; own_first--)
			 /* outer ones' rows come before */ ;
	}
	return own_first;
}

/* Drop from the end of the buffer what is done with. */
static void
trim(void)
{
	while (n_rows > 0 && !rows[n_rows - 1].waiting &&
		   rows[n_rows - 1].flushed_in == InvalidSubTransactionId)
		n_rows--;
	n_numbered = Min(n_numbered, n_rows);
	own_first = Min(own_first, n_rows);
	if (n_rows == 0)
	{
		any_lent = false;
		rows_limit = MAX_ROWS;
		bytes_limit = MAX_BYTES;
	}
	/* a subtransaction of image.c may end amid a row: its bytes stay where they are */
	if (laying_down)
		return;
	if (n_rows == 0)
	{
		arena.len = 0;
		if (arena.cap > KEEP_BYTES)
		{
			pfree(arena.data);
			arena.data = NULL;
			arena.cap = 0;
		}
	}
	else
		arena.len = MAXALIGN(rows[n_rows - 1].off + rows[n_rows - 1].len);
}

/* Put waiting rows into the log, from one on. */
static void
flush_from(int begin)
{
	SubTransactionId sub;
	int			n_max = Min(sau_log_waiting, n_rows - begin);
	MemoryContext cxt = NULL;
	MemoryContext old = CurrentMemoryContext;
	SauLogTuple one;
	SauLogTuple *tuples = &one;
	bool		pushed = false;

	if (flushing || n_max == 0)
		return;
	flushing = true;
	sub = GetCurrentSubTransactionId();
	if (n_max > 1 || !ActiveSnapshotSet())
	{
		cxt = AllocSetContextCreate(CurrentMemoryContext, "softaudit flush", ALLOCSET_DEFAULT_SIZES);
		MemoryContextSwitchTo(cxt);
		tuples = palloc(n_max * sizeof(SauLogTuple));
	}
	if (!ActiveSnapshotSet())
	{
		PushActiveSnapshot(GetTransactionSnapshot());
		pushed = true;
	}
	sau_append_reset();
	assign_ids();

	for (int i = begin; i < n_rows;)
	{
		int			first = i;
		int			n = 0;
		LogRow	   *run = NULL;

		for (; i < n_rows; i++)
		{
			LogRow	   *row = &rows[i];

			if (!row->waiting)
				continue;
			if (run && (row->cid != run->cid || row->log_group != run->log_group))
				break;
			if (run == NULL)
				run = row;
			tuples[n].header = (HeapTupleHeader) (arena.data + row->off);
			tuples[n].len = row->len;
			tuples[n].row_ref = row->row_ref;
			tuples[n].old_row_ref = row->old_row_ref;
			tuples[n].key_changed = row->key_changed;
			n++;
		}
		if (run)
			sau_append_rows(run->log_group, run->cid, tuples, n);
		for (int j = first; j < i; j++)
		{
			if (!rows[j].waiting)
				continue;
			rows[j].waiting = false;
			sau_log_waiting--;
			waiting_bytes -= rows[j].len;
			if (rows[j].sub != sub)
			{
				rows[j].flushed_in = sub;
				any_lent = true;
			}
		}
	}
	trim();
	if (pushed)
		PopActiveSnapshot();
	MemoryContextSwitchTo(old);
	if (cxt)
		MemoryContextDelete(cxt);
	flushing = false;
}

/* What sau_log_flush() does where there are rows that wait. */
void
sau_log_flush_rows(void)
{
	flush_from(0);
}

/* Many rows wait: write those of the subtransaction at work, and let it have as many again. */
static void
make_room(void)
{
	flush_from(first_own());
	rows_limit = sau_log_waiting + MAX_ROWS;
	bytes_limit = waiting_bytes + MAX_BYTES;
	limit_sub = GetCurrentSubTransactionId();
}

/* ---- statements and transactions ---- */

/* A statement begins: one level deeper.  Returns the level to go back to. */
int
sau_log_statement_begin(void)
{
	sau_log_activity++;
	statement_depth++;
	if (statement_depth < MAX_SERIALS)
		serials[statement_depth] = ++statement_count;
	return statement_depth - 1;
}

/* What tells the innermost statement from others; of one that loaded the library, the client's. */
uint64
sau_log_statement_serial(void)
{
	if (statement_depth == 0)
		return (uint64) GetCurrentStatementStartTimestamp();
	return statement_depth < MAX_SERIALS ? serials[statement_depth] : ++statement_count;
}

/*
 * A statement ends without an error: what it captured goes into the log, unless an
 * outer one still gathers, or the transaction goes on; the end of either, a reader, or
 * the number of rows will take them all together.  What waits from outside the
 * subtransaction at work waits for its end, which may be an abort.
 */
void
sau_log_statement_flush(void)
{
	if (sau_log_waiting == 0)
		return;
	/*
	 * Rows of small statements may wait for more of their kind while the transaction
	 * goes on: nobody can see the log before a reader has them flushed, and without a
	 * savepoint to fall back to, an error would end the transaction now as later.
	 */
	if (sau_log_waiting < DEFER_ROWS && GetCurrentTransactionNestLevel() == 1 &&
		(statement_depth > 1 || IsTransactionBlock()))
		return;
	for (int i = first_own(); i < n_rows; i++)
		if (rows[i].waiting)
		{
			if (rows[i].depth >= statement_depth)
				flush_from(i);
			return;
		}
}

/*
 * Leave a statement, after an error too.  The level is handed back rather than
 * counted down: a procedure may have ended transactions in between.
 */
void
sau_log_statement_end(int depth)
{
	statement_depth = depth;
	sau_log_activity++;
}

/* Forget everything: the transaction's rows are in the log, or it is no more. */
void
sau_log_xact_end(void)
{
	sau_log_activity++;
	own_sub = InvalidSubTransactionId;
	/* nothing was captured: most transactions */
	if (n_rows == 0 && !laying_down && !flushing)
		return;
	n_rows = sau_log_waiting = 0;
	waiting_bytes = 0;
	flushing = false;
	laying_down = false;
	sau_append_reset();
	trim();
}

/* Hand a subtransaction's rows to its parent, or let them go with it. */
void
sau_log_subxact_end(bool committed, SubTransactionId sub, SubTransactionId parent)
{
	if (!committed)
	{
		if (current.sub >= sub)
			laying_down = false;
		flushing = false;
		sau_log_activity++;
		sau_append_reset();
	}
	if (n_rows == 0)
		return;
	if (limit_sub == sub)
	{
		rows_limit = MAX_ROWS;
		bytes_limit = MAX_BYTES;
	}
	if (committed)
	{
		for (int i = n_rows - 1; i >= 0 && (any_lent || rows[i].sub == sub); i--)
		{
			if (rows[i].sub == sub)
				rows[i].sub = parent;
			if (rows[i].flushed_in == sub)
				rows[i].flushed_in = rows[i].sub == parent ? InvalidSubTransactionId : parent;
		}
	}
	else
	{
		while (n_rows > 0 && rows[n_rows - 1].sub >= sub)
		{
			n_rows--;
			if (rows[n_rows].waiting)
			{
				sau_log_waiting--;
				waiting_bytes -= rows[n_rows].len;
			}
		}
		for (int i = 0; i < n_rows && any_lent; i++)
			if (rows[i].flushed_in != InvalidSubTransactionId && rows[i].flushed_in >= sub)
			{
				rows[i].flushed_in = InvalidSubTransactionId;
				rows[i].waiting = true;
				sau_log_waiting++;
				waiting_bytes += rows[i].len;
			}
	}
	trim();
}
