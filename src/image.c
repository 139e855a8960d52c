/*
 * image.c
 *		A row's image: from tuple to JSONB in one pass.
 *
 * Step of the path: capture has a row version in a slot; this file lays down, at
 * the end of the caller's buffer, the very bytes that to_jsonb(row) would give
 * under one fixed set of output settings, less what the table's settings keep out.
 *
 * Per relation, prepared once: the object's keys in JSONB order with their entries
 * (a "shape"), and for each column a codec (codec.c).
 *
 * The layout that is mirrored here: convertJsonbObject() and
 * lengthCompareJsonbString() in jsonb_util.c.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/pg_index.h"
#include "common/hashfn.h"
#include "executor/executor.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "port/pg_bitutils.h"
#include "rewrite/rewriteHandler.h"
#include "softaudit.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

/* An object's columns in key order, with the part of its image that never changes. */
typedef struct Shape
{
	int			n;
	int		   *cols;			/* indexes into SauImage.codecs */
	int			pins;
	Size		keys_len;
	Size		head_len;
	char	   *head;			/* container header, entries (those of the values unset), keys */
} Shape;

struct SauImage
{
	int			ncodecs;
	SauCodec	   *codecs;			/* of the logged columns, in key order */
	int			natts;
	int		   *codec_of;		/* by attnum - 1; -1 for a column that is not logged */
	Shape		full;
	bool		has_key;
	bool		holds_key;		/* images hold the key, under the names the registry knows */
	Shape		key;
	int			nkeys;
	AttrNumber *key_attnums;	/* in index order */
	int		   *key_order;		/* where they stand in the key's image */
	bool	   *key_columns;	/* by attnum - 1 */
	SauCodec	  **virtuals;		/* by attnum - 1; NULL where no column is virtual */
	ExprContext *econtext;
};

/* ---- preparing a relation ---- */

static int
compare_codecs(const void *a, const void *b)
{
	const SauCodec *ca = a;
	const SauCodec *cb = b;

	if (ca->namelen != cb->namelen)
		return ca->namelen > cb->namelen ? 1 : -1;
	return memcmp(ca->name, cb->name, ca->namelen);
}

/* Write the entries of an object's keys, then leave room for those of its values, then the keys. */
static void
write_head(char *head, const SauImage *image, const int *cols, int n)
{
	uint32	   *words = (uint32 *) head;
	char	   *keys = head + sizeof(uint32) * (1 + 2 * n);
	uint32		total = 0;

	words[0] = (uint32) n | JB_FOBJECT;
	for (int i = 0; i < n; i++)
	{
		const SauCodec *codec = &image->codecs[cols[i]];

		memcpy(keys + total, codec->name, codec->namelen);
		total += codec->namelen;
		words[1 + i] = (i % JB_OFFSET_STRIDE == 0) ?
			(JENTRY_ISSTRING | total | JENTRY_HAS_OFF) :
			(JENTRY_ISSTRING | (uint32) codec->namelen);
	}
}

static Size
keys_length(const SauImage *image, const int *cols, int n)
{
	Size		len = 0;

	for (int i = 0; i < n; i++)
		len += image->codecs[cols[i]].namelen;
	return len;
}

static void
prepare_shape(Shape *shape, SauImage *image, MemoryContext cxt)
{
	shape->keys_len = keys_length(image, shape->cols, shape->n);
	shape->head_len = sizeof(uint32) * (1 + 2 * shape->n) + shape->keys_len;
	shape->head = MemoryContextAllocZero(cxt, shape->head_len);
	write_head(shape->head, image, shape->cols, shape->n);
	shape->pins = 0;
	for (int i = 0; i < shape->n; i++)
		shape->pins |= image->codecs[shape->cols[i]].pins;
}

/*
 * Find the primary key, which a deferrable one is, too.  A key with a column that
 * the log must not hold is no key for the log.
 */
static void
prepare_key(SauImage *image, SauRel *rel, Relation relation)
{
	MemoryContext cxt = rel->cxt;
	List	   *indexes = RelationGetIndexList(relation);
	ListCell   *lc;

	image->key_columns = MemoryContextAllocZero(cxt, Max(image->natts, 1) * sizeof(bool));
	foreach(lc, indexes)
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_index index;

		if (!HeapTupleIsValid(tuple))
			continue;
		index = (Form_pg_index) GETSTRUCT(tuple);
		if (index->indisprimary)
		{
			image->nkeys = index->indnkeyatts;
			image->key_attnums = MemoryContextAlloc(cxt, image->nkeys * sizeof(AttrNumber));
			image->has_key = true;
			for (int i = 0; i < image->nkeys; i++)
			{
				AttrNumber	attno = index->indkey.values[i];

				image->key_attnums[i] = attno;
				image->key_columns[attno - 1] = true;
				if (image->codec_of[attno - 1] < 0)
					image->has_key = false;
			}
		}
		ReleaseSysCache(tuple);
	}
	list_free(indexes);
	if (!image->has_key)
		return;
	image->key.cols = MemoryContextAlloc(cxt, image->nkeys * sizeof(int));
	for (int i = 0; i < image->ncodecs; i++)
		if (image->key_columns[image->codecs[i].attno - 1])
			image->key.cols[image->key.n++] = i;
	prepare_shape(&image->key, image, cxt);
	image->key_order = MemoryContextAlloc(cxt, image->nkeys * sizeof(int));
	for (int i = 0; i < image->nkeys; i++)
		for (int j = 0; j < image->key.n; j++)
			if (image->codecs[image->key.cols[j]].attno == image->key_attnums[i])
				image->key_order[i] = j;
	image->holds_key = image->nkeys == rel->n_image_key;
	for (int i = 0; i < image->nkeys && image->holds_key; i++)
	{
		const char *name = NameStr(TupleDescAttr(RelationGetDescr(relation), image->key_attnums[i] - 1)->attname);
		bool		found = false;

		for (int j = 0; j < rel->n_image_key; j++)
			found = found || strcmp(name, rel->image_key[j]) == 0;
		image->holds_key = found;
	}
}

#ifdef SAU_HAVE_VIRTUAL_COLUMNS
static void
prepare_virtual(SauImage *image, SauCodec *codec, Relation relation, MemoryContext cxt)
{
	MemoryContext old = MemoryContextSwitchTo(cxt);
	Expr	   *expr = expression_planner((Expr *) build_generation_expression(relation, codec->attno));

	if (image->virtuals == NULL)
	{
		image->virtuals = palloc0(image->natts * sizeof(SauCodec *));
		image->econtext = CreateStandaloneExprContext();
	}
	codec->expr = ExecInitExpr(expr, NULL);
	/* a leakproof function raises for no argument */
	codec->may_raise = contain_leaked_vars((Node *) expr);
	image->virtuals[codec->attno - 1] = codec;
	MemoryContextSwitchTo(old);
}
#endif

/* Prepare a relation's codecs and shapes, in its own context. */
static SauImage *
prepare(SauRel *rel, Relation relation)
{
	TupleDesc	desc = RelationGetDescr(relation);
	MemoryContext cxt = rel->cxt;
	SauImage   *image = MemoryContextAllocZero(cxt, sizeof(SauImage));
	MemoryContext old;

	image->natts = desc->natts;
	image->codecs = MemoryContextAllocZero(cxt, Max(desc->natts, 1) * sizeof(SauCodec));
	image->codec_of = MemoryContextAlloc(cxt, Max(desc->natts, 1) * sizeof(int));
	old = MemoryContextSwitchTo(cxt);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		uint8		flags = i < rel->natts ? rel->column_flags[i] : 0;
		SauCodec	   *codec = &image->codecs[image->ncodecs];

		image->codec_of[i] = -1;
		if (att->attisdropped || (flags & SAU_COLUMN_EXCLUDE) || rel->unresolved)
			continue;
		image->ncodecs++;
		codec->attno = i + 1;
		codec->atttypid = att->atttypid;
		codec->typlen = att->attlen;
		codec->typbyval = att->attbyval;
		codec->name = pstrdup(NameStr(att->attname));
		codec->namelen = strlen(codec->name);
		codec->redact = (flags & SAU_COLUMN_REDACT) != 0;
		codec->is_virtual = sau_compat_is_virtual(att);
		sau_codec_choose(codec, cxt);
	}
	MemoryContextSwitchTo(old);
	qsort(image->codecs, image->ncodecs, sizeof(SauCodec), compare_codecs);
	image->full.n = image->ncodecs;
	image->full.cols = MemoryContextAlloc(cxt, Max(image->ncodecs, 1) * sizeof(int));
	for (int i = 0; i < image->ncodecs; i++)
	{
		SauCodec	   *codec = &image->codecs[i];

		image->codec_of[codec->attno - 1] = i;
		image->full.cols[i] = i;
#ifdef SAU_HAVE_VIRTUAL_COLUMNS
		if (codec->is_virtual)
			prepare_virtual(image, codec, relation, cxt);
#endif
	}
	prepare_shape(&image->full, image, cxt);
	prepare_key(image, rel, relation);
	return image;
}

static inline SauImage *
image_of(SauRel *rel, Relation relation)
{
	if (unlikely(rel->image == NULL))
		rel->image = prepare(rel, relation);
	return rel->image;
}

/* ---- writing rows ---- */

/* A virtual generated column to be computed. */
typedef struct Computation
{
	ExprState  *expr;
	ExprContext *econtext;
	Datum		value;
	bool		isnull;
} Computation;

static void
compute(void *arg)
{
	Computation *c = arg;

	c->value = ExecEvalExprSwitchContext(c->expr, c->econtext, &c->isnull);
}

/*
 * Compute a virtual generated column; false if its expression raises.  PostgreSQL accepts
 * such a row, since it computes the column for those alone that read it.
 */
static pg_noinline bool
compute_virtual(SauImage *image, TupleTableSlot *slot, const SauCodec *codec, Datum *value, bool *isnull)
{
	Computation c = {codec->expr, image->econtext};

	image->econtext->ecxt_scantuple = slot;
	if (!codec->may_raise)
		compute(&c);
	else if (!sau_guard_run(compute, &c, false))
		return false;
	*value = c.value;
	*isnull = c.isnull;
	return true;
}

/* A column's value; false if it is a virtual generated column that cannot be computed. */
static inline bool
value_of(SauImage *image, TupleTableSlot *slot, int att, Datum *value, bool *isnull)
{
	if (unlikely(image->virtuals && image->virtuals[att]))
		return compute_virtual(image, slot, image->virtuals[att], value, isnull);
	*isnull = slot->tts_isnull[att];
	*value = slot->tts_values[att];
	return true;
}

/*
 * Append an object of the given columns.  "head" may be NULL: it is then written
 * here.  "standin" marks columns to be given as stand-ins.  Returns false, with the
 * buffer as it was, if the object would pass what JSONB can hold; "biggest" is then
 * the position of the largest value.
 */
static bool
put_object(SauImage *image, const int *cols, int n, const char *head, Size head_len,
		   Size keys_len, int pins, TupleTableSlot *slot, const bool *standin,
		   SauBuf *out, int *biggest)
{
	Size		start = out->len;
	Size		entries;
	Size		total = keys_len;
	Size		biggest_len = 0;
	int			level;

	Assert((start & 3) == 0);
	sau_buf_reserve(out, VARHDRSZ + head_len + (Size) n * 16);
	if (head)
		memcpy(out->data + start + VARHDRSZ, head, head_len);
	else
		write_head(out->data + start + VARHDRSZ, image, cols, n);
	out->len += VARHDRSZ + head_len;
	entries = start + VARHDRSZ + sizeof(uint32) * (1 + n);

	level = sau_pins_set(pins);
	for (int i = 0; i < n; i++)
	{
		SauCodec	   *codec = &image->codecs[cols[i]];
		bool		isnull;
		Datum		value;
		JEntry		entry;
		Size		before = out->len;

		if (unlikely(!value_of(image, slot, codec->attno - 1, &value, &isnull)))
			entry = sau_codec_put_uncomputed(out, codec);
		else if (isnull)
			entry = JENTRY_ISNULL;
		else if (unlikely(standin && standin[i]))
			entry = sau_codec_put_standin(out, codec, value);
		else
			entry = sau_codec_put(out, codec, value);

		if (out->len - before > biggest_len)
		{
			biggest_len = out->len - before;
			*biggest = i;
		}
		total += out->len - before;
		if (unlikely(total > JENTRY_OFFLENMASK))
		{
			sau_pins_reset(level);
			out->len = start;
			return false;
		}
		if ((n + i) % JB_OFFSET_STRIDE == 0)
			entry = (entry & JENTRY_TYPEMASK) | (uint32) total | JENTRY_HAS_OFF;
		memcpy(out->data + entries + sizeof(JEntry) * i, &entry, sizeof(JEntry));
	}
	sau_pins_reset(level);
	SET_VARSIZE(out->data + start, out->len - start);
	if (unlikely(image->econtext != NULL))
		ResetExprContext(image->econtext);
	return true;
}

/* Append an object, giving up the largest values one by one while it is too large. */
static void
put_object_that_fits(SauImage *image, const int *cols, int n, const char *head, Size head_len,
					 Size keys_len, int pins, TupleTableSlot *slot, SauBuf *out)
{
	int			biggest = 0;
	bool	   *standin;

	if (likely(put_object(image, cols, n, head, head_len, keys_len, pins, slot, NULL, out, &biggest)))
		return;
	standin = palloc0(n * sizeof(bool));
	do
		standin[biggest] = true;
	while (!put_object(image, cols, n, head, head_len, keys_len, pins, slot, standin, out, &biggest));
	pfree(standin);
}

/*
 * Append a row's full image, a JSONB varlena, at the end of the buffer, which must
 * be at a multiple of four.
 */
void
sau_image_full(SauRel *rel, Relation relation, TupleTableSlot *slot, SauBuf *out)
{
	SauImage   *image = image_of(rel, relation);
	Shape	   *shape = &image->full;

	slot_getallattrs(slot);
	put_object_that_fits(image, shape->cols, shape->n, shape->head, shape->head_len,
						 shape->keys_len, shape->pins, slot, out);
}

/* The same of some columns only: those that "wanted" marks, by attnum - 1. */
void
sau_image_some(SauRel *rel, Relation relation, TupleTableSlot *slot, const bool *wanted, SauBuf *out)
{
	SauImage   *image = image_of(rel, relation);
	int			few[64];
	int		   *cols = image->ncodecs > (int) lengthof(few) ? palloc(image->ncodecs * sizeof(int)) : few;
	int			n = 0;
	int			pins = 0;
	Size		keys_len;

	slot_getallattrs(slot);
	for (int i = 0; i < image->ncodecs; i++)
		if (wanted[image->codecs[i].attno - 1])
		{
			cols[n++] = i;
			pins |= image->codecs[i].pins;
		}
	keys_len = keys_length(image, cols, n);
	put_object_that_fits(image, cols, n, NULL, sizeof(uint32) * (1 + 2 * n) + keys_len,
						 keys_len, pins, slot, out);
	if (cols != few)
		pfree(cols);
}

/* Whether rows have a key that the log can hold. */
bool
sau_image_has_key(SauRel *rel, Relation relation)
{
	return image_of(rel, relation)->has_key;
}

/* Append the image of a row's primary key; false, and nothing appended, if it has none. */
bool
sau_image_key(SauRel *rel, Relation relation, TupleTableSlot *slot, SauBuf *out)
{
	SauImage   *image = image_of(rel, relation);
	Shape	   *shape = &image->key;

	if (!image->has_key)
		return false;
	slot_getallattrs(slot);
	put_object_that_fits(image, shape->cols, shape->n, shape->head, shape->head_len,
						 shape->keys_len, shape->pins, slot, out);
	return true;
}

/*
 * A whole number's digest: its low half, so that neighbours in the table are neighbours in
 * the index; beyond 32 bits with the high half in it.
 */
static inline uint32
digest_whole(uint64 whole)
{
	/* zero for all that an integer holds */
	uint32		high = (uint32) ((whole + UINT64CONST(0x80000000)) >> 32);

	return (uint32) whole + high * 0x9E3779B1;
}

/*
 * The number that a key is indexed by in the log: the table's id above, a digest of
 * the key below, of a single whole number or of the values' hashes.  "order" tells where
 * the columns of the key's index stand in its image; NULL: as they stand there.
 *
 * A function of the values in the index's order, not of their names, so that a key
 * column may be renamed.  Keys that share a digest are told apart by readers.
 */
int64
sau_image_row_ref(int32 table_id, const JsonbContainer *key, const int *order)
{
	int			n = JsonContainerSize(key);
	const char *values = (const char *) &key->children[2 * n];
	uint32		digest = 0;

	for (int k = 0; k < n; k++)
	{
		int			i = n + (order ? order[k] : k);
		JEntry		entry = key->children[i];
		uint32		off = getJsonbOffset(key, i);
		uint32		end = off + getJsonbLength(key, i);
		uint64		whole;
		uint32		hash;

		if (JBE_ISNUMERIC(entry) || JBE_ISCONTAINER(entry))
			off = INTALIGN(off);
		if (n == 1 && JBE_ISNUMERIC(entry) && sau_codec_whole_number(values + off, end - off, &whole))
			hash = digest_whole(whole);
		else if (JBE_ISNUMERIC(entry))
			/* 1.5 and 1.50 are one key */
			hash = DatumGetUInt32(DirectFunctionCall1(hash_numeric, PointerGetDatum(values + off)));
		else
			hash = hash_bytes((const unsigned char *) values + off, (int) (end - off)) ^
				((entry & JENTRY_TYPEMASK) >> 28);
		/* as ExecHashGetHashValue() combines them */
		digest = pg_rotate_left32(digest, 1) ^ hash;
	}
	return (int64) (((uint64) (uint32) table_id << 32) | digest);
}

/*
 * The number that a row's key is indexed by.  "scratch" is used past its end and left
 * as it was.  The table's number alone if the row has no key.
 */
int64
sau_image_slot_ref(SauRel *rel, Relation relation, TupleTableSlot *slot, SauBuf *scratch)
{
	SauImage   *image = image_of(rel, relation);
	Size		before = scratch->len;
	Size		start;
	int64		ref;

	if (!image->has_key)
		return (int64) ((uint64) (uint32) rel->table_id << 32);
	slot_getallattrs(slot);
	if (image->nkeys == 1)
	{
		SauCodec	   *codec = &image->codecs[image->key.cols[0]];
		Datum		value = slot->tts_values[codec->attno - 1];
		uint32		digest = 0;

		/* sau_image_row_ref() says why */
		if (!codec->redact && codec->kind >= SAU_CODEC_INT2 && codec->kind <= SAU_CODEC_INT8)
		{
			digest = codec->kind == SAU_CODEC_INT8 ? digest_whole((uint64) DatumGetInt64(value)) :
				codec->kind == SAU_CODEC_INT4 ? (uint32) DatumGetInt32(value) :
				(uint32) (int32) DatumGetInt16(value);
			return (int64) (((uint64) (uint32) rel->table_id << 32) | digest);
		}
	}
	sau_buf_align4(scratch);
	start = scratch->len;
	sau_image_key(rel, relation, slot, scratch);
	ref = sau_image_row_ref(rel->table_id, (JsonbContainer *) (scratch->data + start + VARHDRSZ), image->key_order);
	scratch->len = before;
	return ref;
}

/* The number that a key is indexed by, of an image that sau_image_key() gave. */
int64
sau_image_key_ref(SauRel *rel, Relation relation, const Jsonb *key)
{
	return sau_image_row_ref(rel->table_id, &key->root, image_of(rel, relation)->key_order);
}

/*
 * Where do these columns stand in the image of a key of theirs?  It may call some of them
 * otherwise: what stands there under other names is taken for the rest, in its order.
 * Returns how many names are known.
 */
int
sau_image_key_order(const JsonbContainer *key, char **names, int n, int *order)
{
	const char *base = (const char *) &key->children[2 * n];
	bool		used[INDEX_MAX_KEYS] = {false};
	int			known = 0;
	int			next = 0;

	Assert(JsonContainerSize(key) == n && n <= INDEX_MAX_KEYS);
	for (int k = 0; k < n; k++)
	{
		order[k] = -1;
		for (int i = 0; i < n; i++)
			if (getJsonbLength(key, i) == strlen(names[k]) &&
				memcmp(base + getJsonbOffset(key, i), names[k], strlen(names[k])) == 0)
			{
				order[k] = i;
				used[i] = true;
				known++;
			}
	}
	for (int k = 0; k < n; k++)
		if (order[k] < 0)
		{
			while (used[next])
				next++;
			order[k] = next++;
		}
	return known;
}

/* Whether a row's key can be told from its images alone. */
bool
sau_image_holds_key(SauRel *rel, Relation relation)
{
	return image_of(rel, relation)->holds_key;
}

/* Which columns are the primary key's, by attnum - 1. */
const bool *
sau_image_key_columns(SauRel *rel, Relation relation)
{
	return image_of(rel, relation)->key_columns;
}

/* The primary key's columns in the order of its index. */
const AttrNumber *
sau_image_key_attnums(SauRel *rel, Relation relation, int *nkeys)
{
	*nkeys = image_of(rel, relation)->nkeys;
	return rel->image->key_attnums;
}

/*
 * Are two values of one varlena type the same?  Equal stored bytes, a TOAST pointer
 * among them, settle it without a look at the value.
 */
static bool
same_varlena(Datum a, Datum b)
{
	struct varlena *va = (struct varlena *) DatumGetPointer(a);
	struct varlena *vb = (struct varlena *) DatumGetPointer(b);
	bool		same;

	if (VARSIZE_ANY(va) == VARSIZE_ANY(vb) && memcmp(va, vb, VARSIZE_ANY(va)) == 0)
		return true;
	if (toast_raw_datum_size(a) != toast_raw_datum_size(b))
		return false;
	va = PG_DETOAST_DATUM_PACKED(a);
	vb = PG_DETOAST_DATUM_PACKED(b);
	same = memcmp(VARDATA_ANY(va), VARDATA_ANY(vb), VARSIZE_ANY_EXHDR(va)) == 0;
	if ((Pointer) va != DatumGetPointer(a))
		pfree(va);
	if ((Pointer) vb != DatumGetPointer(b))
		pfree(vb);
	return same;
}

/* Are a column's values in two versions of a row the same?  Not if one cannot be computed. */
static bool
same_value(SauImage *image, Form_pg_attribute att, TupleTableSlot *oldslot, TupleTableSlot *newslot)
{
	bool		oldnull;
	bool		newnull;
	Datum		a;
	Datum		b;

	if (!value_of(image, oldslot, att->attnum - 1, &a, &oldnull) ||
		!value_of(image, newslot, att->attnum - 1, &b, &newnull))
		return false;
	if (oldnull || newnull)
		return oldnull == newnull;
	if (att->attbyval)
		return a == b;
	if (att->attlen == -1)
		return same_varlena(a, b);
	if (att->attlen > 0)
		return memcmp(DatumGetPointer(a), DatumGetPointer(b), att->attlen) == 0;
	return strcmp(DatumGetCString(a), DatumGetCString(b)) == 0;
}

/* Do two versions of a row have the same primary key?  Yes, if it has none. */
bool
sau_image_same_key(SauRel *rel, Relation relation, TupleTableSlot *oldslot, TupleTableSlot *newslot)
{
	SauImage   *image = image_of(rel, relation);

	slot_getallattrs(oldslot);
	slot_getallattrs(newslot);
	for (int i = 0; i < image->nkeys; i++)
		if (!same_value(image, TupleDescAttr(RelationGetDescr(relation), image->key_attnums[i] - 1),
						oldslot, newslot))
			return false;
	return true;
}

/*
 * Mark in "changed" (by attnum - 1, all columns, logged or not) where two versions
 * of a row differ, and return how many do.
 */
int
sau_image_compare(SauRel *rel, Relation relation, TupleTableSlot *oldslot, TupleTableSlot *newslot,
				  bool *changed)
{
	SauImage   *image = image_of(rel, relation);
	TupleDesc	desc = RelationGetDescr(relation);
	int			n = 0;

	slot_getallattrs(oldslot);
	slot_getallattrs(newslot);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		changed[i] = !att->attisdropped && !same_value(image, att, oldslot, newslot);
		if (changed[i])
			n++;
	}
	if (unlikely(image->econtext != NULL))
		ResetExprContext(image->econtext);
	return n;
}
