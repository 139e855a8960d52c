/*
 * image.c
 *		A row's image: from tuple to JSONB in one pass.
 *
 * Step of the path: capture has a row version in a slot; this file lays down, at
 * the end of the caller's buffer, the very bytes that to_jsonb(row) would give
 * under one fixed set of output settings, less what the table's settings keep out.
 *
 * Per relation, prepared once: the object's keys in JSONB order with their entries
 * (a "shape"), and for each column a codec.  Common types are written directly.
 * The others go through their output function or through to_jsonb() itself, with
 * the settings pinned that the type's output depends on, and only those.
 *
 * What to_jsonb() refuses must not stop the write, so a codec that may meet such a
 * value runs in a subtransaction ("guarded"), and a stand-in takes the value's place.
 *
 * The layout of JSONB that is mirrored here: convertJsonbObject(),
 * convertJsonbScalar() and lengthCompareJsonbString() in jsonb_util.c; the choice by
 * type: jsonb_categorize_type() and datum_to_jsonb() in jsonb.c.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "access/toast_internals.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_index.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "common/cryptohash.h"
#include "common/hashfn.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "common/shortest_dec.h"
#include "executor/executor.h"
#include "nodes/makefuncs.h"
#include "optimizer/optimizer.h"
#include "parser/parse_coerce.h"
#include "pgtime.h"
#include "rewrite/rewriteHandler.h"
#include "softaudit.h"
#include "utils/builtins.h"
#include "utils/bytea.h"
#include "utils/date.h"
#include "utils/float.h"
#include "utils/datetime.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/json.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/numeric.h"
#include "utils/resowner.h"
#include "utils/syscache.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

/* Settings that a type's output depends on. */
#define PIN_TIMEZONE	0x01
#define PIN_DATESTYLE	0x02
#define PIN_INTERVAL	0x04
#define PIN_BYTEA		0x08
#define PIN_FLOAT		0x10
#define PIN_MONEY		0x20
#define PIN_PATH		0x40
#define PIN_ALL			0x7F

/* Longer values may make to_jsonb() fail for their size alone. */
#define GUARD_SIZE		(32 * 1024 * 1024)

typedef enum CodecKind
{
	CODEC_BOOL,
	CODEC_INT2,
	CODEC_INT4,
	CODEC_INT8,
	CODEC_FLOAT4,
	CODEC_FLOAT8,
	CODEC_NUMERIC,
	CODEC_DATE,
	CODEC_TIMESTAMP,
	CODEC_TIMESTAMPTZ,
	CODEC_TEXT,					/* varlena whose payload is the text */
	CODEC_NAME,
	CODEC_UUID,
	CODEC_BYTEA,
	CODEC_JSONB,
	CODEC_OUTPUT,				/* output function */
	CODEC_JSON,					/* to_jsonb(), guarded where the text looks risky */
	CODEC_TO_JSONB				/* to_jsonb() */
} CodecKind;

typedef struct Codec
{
	AttrNumber	attno;
	CodecKind	kind;
	bool		guarded;
	bool		redact;
	bool		is_virtual;
	int			pins;
	int16		typlen;
	bool		typbyval;
	Oid			atttypid;
	int			namelen;
	char	   *name;
	FmgrInfo	fn;
	ExprState  *expr;			/* of a virtual generated column */
} Codec;

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
	Codec	   *codecs;			/* of the logged columns, in key order */
	int			natts;
	int		   *codec_of;		/* by attnum - 1; -1 for a column that is not logged */
	Shape		full;
	bool		has_key;
	bool		holds_key;		/* images hold the key, under the names the registry knows */
	Shape		key;
	int			nkeys;
	AttrNumber *key_attnums;	/* in index order */
	bool	   *key_columns;	/* by attnum - 1 */
	Codec	  **virtuals;		/* by attnum - 1; NULL where no column is virtual */
	ExprContext *econtext;
};

static uint8 secret[PG_SHA256_DIGEST_LENGTH];
static Oid	secret_relid = InvalidOid;	/* where it was read from */

/* ---- pinned settings ---- */

/* Which of these settings stand otherwise than images want them. */
static int
settings_off(int pins)
{
	int			off = 0;

	if ((pins & PIN_TIMEZONE) && strcmp(pg_get_timezone_name(session_timezone), "UTC") != 0)
		off |= PIN_TIMEZONE;
	if ((pins & PIN_DATESTYLE) && DateStyle != USE_ISO_DATES)
		off |= PIN_DATESTYLE;
	if ((pins & PIN_INTERVAL) && IntervalStyle != INTSTYLE_POSTGRES)
		off |= PIN_INTERVAL;
	if ((pins & PIN_BYTEA) && bytea_output != BYTEA_OUTPUT_HEX)
		off |= PIN_BYTEA;
	if ((pins & PIN_FLOAT) && extra_float_digits != 1)
		off |= PIN_FLOAT;
	if ((pins & PIN_MONEY) && strcmp(GetConfigOption("lc_monetary", false, false), "C") != 0)
		off |= PIN_MONEY;
	if ((pins & PIN_PATH) &&
		(strcmp(namespace_search_path, "pg_catalog") != 0 || quote_all_identifiers))
		off |= PIN_PATH;
	return off;
}

static void
set_one(const char *name, const char *value)
{
	(void) set_config_option(name, value, PGC_USERSET, PGC_S_SESSION,
							 GUC_ACTION_SAVE, true, 0, false);
}

/*
 * Pin the settings that are off; returns the nest level to hand to unpin(), or 0
 * where nothing had to be done.  An error unwinds it with its (sub)transaction.
 */
static int
pin(int pins)
{
	int			off;
	int			level;

	if (pins == 0 || (off = settings_off(pins)) == 0)
		return 0;
	level = NewGUCNestLevel();
	if (off & PIN_TIMEZONE)
		set_one("TimeZone", "UTC");
	if (off & PIN_DATESTYLE)
		set_one("DateStyle", "ISO");
	if (off & PIN_INTERVAL)
		set_one("IntervalStyle", "postgres");
	if (off & PIN_BYTEA)
		set_one("bytea_output", "hex");
	if (off & PIN_FLOAT)
		set_one("extra_float_digits", "1");
	if (off & PIN_MONEY)
		set_one("lc_monetary", "C");
	if (off & PIN_PATH)
	{
		set_one("search_path", "pg_catalog");
		set_one("quote_all_identifiers", "off");
	}
	return level;
}

static void
unpin(int level)
{
	if (level > 0)
		AtEOXact_GUC(true, level);
}

/* Pin all settings, for a caller that converts values by itself; see pin(). */
int
sau_image_pin_settings(void)
{
	return pin(PIN_ALL);
}

void
sau_image_unpin_settings(int level)
{
	unpin(level);
}

/* ---- choosing a codec ---- */

/* What the output of a type depends on, looking through arrays and ranges. */
static int
pins_of(Oid typid)
{
	Oid			elem;

	typid = getBaseType(typid);
	switch (typid)
	{
		case BOOLOID:
		case INT2OID:
		case INT4OID:
		case INT8OID:
		case NUMERICOID:
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
		case NAMEOID:
		case CHAROID:
		case UUIDOID:
		case JSONOID:
		case JSONBOID:
		case JSONPATHOID:
		case XMLOID:
		case OIDOID:
		case XIDOID:
		case XID8OID:
		case CIDOID:
		case TIDOID:
		case DATEOID:
		case TIMESTAMPOID:
		case INETOID:
		case CIDROID:
		case MACADDROID:
		case MACADDR8OID:
		case BITOID:
		case VARBITOID:
		case TSVECTOROID:
		case TSQUERYOID:
		case PG_LSNOID:
		case PG_SNAPSHOTOID:
		case INT4RANGEOID:
		case INT8RANGEOID:
		case NUMRANGEOID:
		case INT4MULTIRANGEOID:
		case INT8MULTIRANGEOID:
		case NUMMULTIRANGEOID:
		case INT2VECTOROID:
		case OIDVECTOROID:
		case ACLITEMOID:
			return 0;
		case TIMESTAMPTZOID:
			return PIN_TIMEZONE;
		case TIMEOID:
		case TIMETZOID:
		case DATERANGEOID:
		case DATEMULTIRANGEOID:
		case TSRANGEOID:
		case TSMULTIRANGEOID:
			return PIN_DATESTYLE;
		case TSTZRANGEOID:
		case TSTZMULTIRANGEOID:
			return PIN_DATESTYLE | PIN_TIMEZONE;
		case INTERVALOID:
			return PIN_INTERVAL;
		case BYTEAOID:
			return PIN_BYTEA;
		case FLOAT4OID:
		case FLOAT8OID:
		case POINTOID:
		case LSEGOID:
		case PATHOID:
		case BOXOID:
		case POLYGONOID:
		case LINEOID:
		case CIRCLEOID:
			return PIN_FLOAT;
		case CASHOID:
			return PIN_MONEY;
		case REGPROCOID:
		case REGPROCEDUREOID:
		case REGOPEROID:
		case REGOPERATOROID:
		case REGCLASSOID:
		case REGCOLLATIONOID:
		case REGTYPEOID:
		case REGROLEOID:
		case REGNAMESPACEOID:
		case REGCONFIGOID:
		case REGDICTIONARYOID:
			return PIN_PATH;
		default:
			break;
	}
	elem = get_element_type(typid);
	if (OidIsValid(elem))
		return pins_of(elem);
	if (get_typtype(typid) == TYPTYPE_ENUM)
		return 0;
	return PIN_ALL;
}

static bool
has_json_cast(Oid typid)
{
	Oid			castfunc;

	return typid >= FirstNormalObjectId &&
		find_coercion_pathway(JSONOID, typid, COERCION_EXPLICIT, &castfunc) == COERCION_PATH_FUNC;
}

/*
 * May to_jsonb() raise for a value of this type?  json may hold what JSONB does
 * not; a type that is not built in may raise for reasons of its own.
 */
static bool
may_refuse(Oid typid)
{
	Oid			elem;

	typid = getBaseType(typid);
	if (typid == JSONOID)
		return true;
	elem = get_element_type(typid);
	if (OidIsValid(elem))
		return may_refuse(elem);
	if (typid < FirstNormalObjectId)
		return false;
	return get_typtype(typid) != TYPTYPE_ENUM || has_json_cast(typid);
}

static void
use_to_jsonb(Codec *codec, MemoryContext cxt)
{
	Node	   *arg;

	codec->kind = CODEC_TO_JSONB;
	fmgr_info_cxt(F_TO_JSONB, &codec->fn, cxt);
	/* to_jsonb() reads the type of its argument from the call's expression. */
	arg = (Node *) makeNullConst(codec->atttypid, -1, InvalidOid);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(arg),
											 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
					   &codec->fn);
}

static void
use_output(Codec *codec, Oid typid, MemoryContext cxt)
{
	Oid			outfunc;
	bool		isvarlena;

	getTypeOutputInfo(typid, &outfunc, &isvarlena);
	codec->kind = CODEC_OUTPUT;
	fmgr_info_cxt(outfunc, &codec->fn, cxt);
	if (codec->fn.fn_addr == textout)
		codec->kind = CODEC_TEXT;
}

/* Choose how a column is written; mirrors jsonb_categorize_type(). */
static void
choose_codec(Codec *codec, MemoryContext cxt)
{
	Oid			typid = getBaseType(codec->atttypid);

	codec->pins = 0;
	switch (typid)
	{
		case BOOLOID:
			codec->kind = CODEC_BOOL;
			return;
		case INT2OID:
			codec->kind = CODEC_INT2;
			return;
		case INT4OID:
			codec->kind = CODEC_INT4;
			return;
		case INT8OID:
			codec->kind = CODEC_INT8;
			return;
		case FLOAT4OID:
			codec->kind = CODEC_FLOAT4;
			return;
		case FLOAT8OID:
			codec->kind = CODEC_FLOAT8;
			return;
		case NUMERICOID:
			codec->kind = CODEC_NUMERIC;
			return;
		case DATEOID:
			codec->kind = CODEC_DATE;
			return;
		case TIMESTAMPOID:
			codec->kind = CODEC_TIMESTAMP;
			return;
		case TIMESTAMPTZOID:
			codec->kind = CODEC_TIMESTAMPTZ;
			return;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			codec->kind = CODEC_TEXT;
			return;
		case NAMEOID:
			codec->kind = CODEC_NAME;
			return;
		case UUIDOID:
			codec->kind = CODEC_UUID;
			return;
		case BYTEAOID:
			codec->kind = CODEC_BYTEA;
			return;
		case JSONBOID:
			codec->kind = CODEC_JSONB;
			return;
		case JSONOID:
			use_to_jsonb(codec, cxt);
			codec->kind = CODEC_JSON;
			return;
		default:
			break;
	}

	codec->pins = pins_of(typid);
	codec->guarded = may_refuse(typid);
	if (OidIsValid(get_element_type(typid)) || typid == ANYARRAYOID ||
		typid == RECORDARRAYOID || type_is_rowtype(typid) || has_json_cast(typid))
		use_to_jsonb(codec, cxt);
	else
	{
		use_output(codec, typid, cxt);
		if (codec->kind == CODEC_TEXT)
		{
			codec->pins = 0;
			codec->guarded = false;
		}
		else if (codec->guarded)
			use_to_jsonb(codec, cxt);
	}
}

/* ---- preparing a relation ---- */

static int
compare_codecs(const void *a, const void *b)
{
	const Codec *ca = a;
	const Codec *cb = b;

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
		const Codec *codec = &image->codecs[cols[i]];

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
prepare_virtual(SauImage *image, Codec *codec, Relation relation, MemoryContext cxt)
{
	MemoryContext old = MemoryContextSwitchTo(cxt);

	if (image->virtuals == NULL)
	{
		image->virtuals = palloc0(image->natts * sizeof(Codec *));
		image->econtext = CreateStandaloneExprContext();
	}
	codec->expr = ExecInitExpr(expression_planner((Expr *) build_generation_expression(relation, codec->attno)),
							   NULL);
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
	image->codecs = MemoryContextAllocZero(cxt, Max(desc->natts, 1) * sizeof(Codec));
	image->codec_of = MemoryContextAlloc(cxt, Max(desc->natts, 1) * sizeof(int));
	old = MemoryContextSwitchTo(cxt);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		uint8		flags = i < rel->natts ? rel->column_flags[i] : 0;
		Codec	   *codec = &image->codecs[image->ncodecs];

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
		choose_codec(codec, cxt);
	}
	MemoryContextSwitchTo(old);
	qsort(image->codecs, image->ncodecs, sizeof(Codec), compare_codecs);
	image->full.n = image->ncodecs;
	image->full.cols = MemoryContextAlloc(cxt, Max(image->ncodecs, 1) * sizeof(int));
	for (int i = 0; i < image->ncodecs; i++)
	{
		Codec	   *codec = &image->codecs[i];

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

/* ---- writing values ---- */

static inline JEntry
put_string(SauBuf *out, const char *s, Size len)
{
	sau_buf_append(out, s, len);
	return JENTRY_ISSTRING | (uint32) len;
}

/*
 * An integer as numeric: what int64_to_numeric() gives, in the short format
 * (numeric.c, make_result()): base 10,000 digits without trailing zeros.
 */
static JEntry
put_int64(SauBuf *out, int64 value)
{
	Size		before = out->len;
	uint64		u = value < 0 ? -((uint64) value) : (uint64) value;
	uint16		digits[5];
	int			n = 0;
	int			first;
	uint16		header = 0x8000;
	char	   *p;

	/* least significant first */
	while (u != 0)
	{
		digits[n++] = u % 10000;
		u /= 10000;
	}
	for (first = 0; first < n && digits[first] == 0; first++)
		 /* trailing zeros are not stored */ ;
	if (n > 0)
		header |= (value < 0 ? 0x2000 : 0) | (uint16) (n - 1);

	sau_buf_reserve(out, 3 + VARHDRSZ + sizeof(uint16) * 6);
	sau_buf_align4(out);
	p = out->data + out->len;
	SET_VARSIZE(p, VARHDRSZ + sizeof(uint16) * (1 + n - first));
	p += VARHDRSZ;
	memcpy(p, &header, sizeof(uint16));
	p += sizeof(uint16);
	for (int i = n - 1; i >= first; i--, p += sizeof(uint16))
		memcpy(p, &digits[i], sizeof(uint16));
	out->len = p - out->data;
	return JENTRY_ISNUMERIC | (uint32) (out->len - before);
}

static JEntry
put_numeric_bytes(SauBuf *out, const char *payload, Size len)
{
	Size		before = out->len;

	sau_buf_reserve(out, 3 + VARHDRSZ + len);
	sau_buf_align4(out);
	SET_VARSIZE(out->data + out->len, VARHDRSZ + len);
	memcpy(out->data + out->len + VARHDRSZ, payload, len);
	out->len += VARHDRSZ + len;
	return JENTRY_ISNUMERIC | (uint32) (out->len - before);
}

/* A number as its type's output function writes it; NaN and the infinities become strings. */
static JEntry
put_number_text(SauBuf *out, char *text)
{
	Datum		num;

	if (strchr(text, 'N') || strchr(text, 'n'))
		return put_string(out, text, strlen(text));
	num = DirectFunctionCall3(numeric_in, CStringGetDatum(text),
							  ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1));
	return put_numeric_bytes(out, VARDATA_ANY(DatumGetPointer(num)),
							 VARSIZE_ANY_EXHDR(DatumGetPointer(num)));
}

static JEntry
put_numeric(SauBuf *out, Datum value)
{
	struct varlena *v = PG_DETOAST_DATUM_PACKED(value);
	const char *payload = VARDATA_ANY(v);
	uint16		header;

	memcpy(&header, payload, sizeof(header));
	/* The short format is what make_result() chooses wherever it fits. */
	if ((header & 0xC000) == 0x8000)
		return put_numeric_bytes(out, payload, VARSIZE_ANY_EXHDR(v));
	return put_number_text(out, DatumGetCString(DirectFunctionCall1(numeric_out, value)));
}

static JEntry
put_float(SauBuf *out, double value, bool is_float4)
{
	char		text[DOUBLE_SHORTEST_DECIMAL_LEN];

	/* Inside this range the shortest text of a whole number is its plain digits. */
	if (value == rint(value) && fabs(value) < 1e6)
		return put_int64(out, (int64) value);
	if (is_float4)
		float_to_shortest_decimal_buf((float) value, text);
	else
		double_to_shortest_decimal_buf(value, text);
	return put_number_text(out, text);
}

static inline char *
two_digits(char *p, int v)
{
	p[0] = '0' + v / 10;
	p[1] = '0' + v % 10;
	return p + 2;
}

static inline char *
put_ymd(char *p, int julian)
{
	int			y,
				m,
				d;

	j2date(julian, &y, &m, &d);
	p = two_digits(p, y / 100);
	p = two_digits(p, y % 100);
	*p++ = '-';
	p = two_digits(p, m);
	*p++ = '-';
	return two_digits(p, d);
}

/* Days from 2000-01-01 to 0001-01-01 and to 10000-01-01: four-digit years AD. */
#define FIRST_PLAIN_DAY	(-730119)
#define END_PLAIN_DAY	2921940

/*
 * Date and time as JsonEncodeDateTime() writes them, in UTC; it is called itself
 * for what has no four-digit year.
 */
static JEntry
put_datetime(SauBuf *out, Datum value, Oid typid)
{
	char		text[MAXDATELEN + 1];
	char	   *p = text;

	if (typid == DATEOID)
	{
		DateADT		date = DatumGetDateADT(value);

		if (date >= FIRST_PLAIN_DAY && date < END_PLAIN_DAY)
			return put_string(out, text, put_ymd(text, date + POSTGRES_EPOCH_JDATE) - text);
	}
	else
	{
		int64		ts = DatumGetTimestamp(value);
		int64		days = ts / USECS_PER_DAY;
		int64		usecs = ts % USECS_PER_DAY;

		if (usecs < 0)
		{
			usecs += USECS_PER_DAY;
			days--;
		}
		if (days >= FIRST_PLAIN_DAY && days < END_PLAIN_DAY)
		{
			int			secs = usecs / USECS_PER_SEC;
			int			frac = usecs % USECS_PER_SEC;

			p = put_ymd(p, (int) days + POSTGRES_EPOCH_JDATE);
			*p++ = 'T';
			p = two_digits(p, secs / SECS_PER_HOUR);
			*p++ = ':';
			p = two_digits(p, secs / SECS_PER_MINUTE % MINS_PER_HOUR);
			*p++ = ':';
			p = two_digits(p, secs % SECS_PER_MINUTE);
			if (frac != 0)
			{
				*p++ = '.';
				p = two_digits(p, frac / 10000);
				p = two_digits(p, frac / 100 % 100);
				p = two_digits(p, frac % 100);
				while (p[-1] == '0')
					p--;
			}
			if (typid == TIMESTAMPTZOID)
			{
				memcpy(p, "+00:00", 6);
				p += 6;
			}
			return put_string(out, text, p - text);
		}
	}
	{
		int			utc = 0;

		JsonEncodeDateTime(text, value, typid, typid == TIMESTAMPTZOID ? &utc : NULL);
	}
	return put_string(out, text, strlen(text));
}

/* Put a whole JSONB value inside the object: a container as it is, a scalar out of its array. */
static JEntry
put_jsonb(SauBuf *out, const char *root, Size len)
{
	Size		before = out->len;
	uint32		header;

	memcpy(&header, root, sizeof(header));
	if ((header & JB_FARRAY) && (header & JB_FSCALAR))
	{
		JEntry		entry;
		const char *data = root + 2 * sizeof(uint32);
		Size		datalen = len - 2 * sizeof(uint32);

		memcpy(&entry, root + sizeof(uint32), sizeof(entry));
		if (JBE_ISNUMERIC(entry))
		{
			sau_buf_reserve(out, datalen + 3);
			sau_buf_align4(out);
		}
		sau_buf_append(out, data, datalen);
		return (entry & JENTRY_TYPEMASK) | (uint32) (out->len - before);
	}
	sau_buf_reserve(out, len + 3);
	sau_buf_align4(out);
	sau_buf_append(out, root, len);
	return JENTRY_ISCONTAINER | (uint32) (out->len - before);
}

static JEntry
put_jsonb_datum(SauBuf *out, Datum value)
{
	struct varlena *v = PG_DETOAST_DATUM_PACKED(value);
	JEntry		entry = put_jsonb(out, VARDATA_ANY(v), VARSIZE_ANY_EXHDR(v));

	if ((Pointer) v != DatumGetPointer(value))
		pfree(v);
	return entry;
}

static void
hex_of(const uint8 *bytes, int n, char *hex)
{
	for (int i = 0; i < n; i++)
	{
		hex[2 * i] = "0123456789abcdef"[bytes[i] >> 4];
		hex[2 * i + 1] = "0123456789abcdef"[bytes[i] & 15];
	}
	hex[2 * n] = '\0';
}

static void
push_text(SauJsonbState *state, JsonbIteratorToken token, const char *s)
{
	JsonbValue	v;

	v.type = jbvString;
	v.val.string.val = (char *) s;
	v.val.string.len = strlen(s);
	sau_compat_push_jsonb(state, token, &v);
}

/* A type's name, qualified unless it is built in, quoted only where it must be. */
static char *
type_name(Oid typid)
{
	bool		save = quote_all_identifiers;
	char	   *name = NULL;

	quote_all_identifiers = false;
	PG_TRY();
	{
		name = format_type_extended(typid, -1, typid >= FirstNormalObjectId ? FORMAT_TYPE_FORCE_QUALIFY : 0);
	}
	PG_FINALLY();
	{
		quote_all_identifiers = save;
	}
	PG_END_TRY();
	return name;
}

/* The stand-in for a value that JSONB cannot hold: its type, size and digest. */
static JEntry
put_unrepresentable(SauBuf *out, Codec *codec, Datum value)
{
	const char *bytes;
	Size		len;
	Datum		flat = value;
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	char		hex[2 * PG_SHA256_DIGEST_LENGTH + 1];
	pg_cryptohash_ctx *ctx = pg_cryptohash_create(PG_SHA256);
	SauJsonbState state = {0};
	JsonbValue	v;
	Jsonb	   *object;
	JEntry		entry;

	if (codec->typlen == -1)
	{
		flat = PointerGetDatum(PG_DETOAST_DATUM_PACKED(value));
		bytes = VARDATA_ANY(DatumGetPointer(flat));
		len = VARSIZE_ANY_EXHDR(DatumGetPointer(flat));
	}
	else if (codec->typbyval)
	{
		bytes = (const char *) &value;
		len = codec->typlen;
	}
	else
	{
		bytes = DatumGetPointer(value);
		len = codec->typlen > 0 ? codec->typlen : strlen(bytes);
	}
	if (ctx == NULL || pg_cryptohash_init(ctx) < 0 ||
		pg_cryptohash_update(ctx, (const uint8 *) bytes, len) < 0 ||
		pg_cryptohash_final(ctx, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute a SHA-256 digest");
	pg_cryptohash_free(ctx);
	hex_of(digest, sizeof(digest), hex);

	sau_compat_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	push_text(&state, WJB_KEY, "$softaudit");
	push_text(&state, WJB_VALUE, "unrepresentable");
	push_text(&state, WJB_KEY, "type");
	push_text(&state, WJB_VALUE, type_name(codec->atttypid));
	push_text(&state, WJB_KEY, "bytes");
	v.type = jbvNumeric;
	v.val.numeric = int64_to_numeric(len);
	sau_compat_push_jsonb(&state, WJB_VALUE, &v);
	push_text(&state, WJB_KEY, "sha256");
	push_text(&state, WJB_VALUE, hex);
	sau_compat_push_jsonb(&state, WJB_END_OBJECT, NULL);
	object = JsonbValueToJsonb(state.result);
	entry = put_jsonb(out, VARDATA(object), VARSIZE(object) - VARHDRSZ);
	if (flat != value)
		pfree(DatumGetPointer(flat));
	return entry;
}

/*
 * May to_jsonb() refuse this json?  A scan that errs on the side of yes: an escape
 * by code point, a long number or one with an exponent, deep nesting.
 */
static bool
json_looks_risky(const char *s, Size len)
{
	bool		in_string = false;
	int			depth = 0;
	int			digits = 0;

	for (const char *end = s + len; s < end; s++)
	{
		if (in_string)
		{
			if (*s == '\\')
			{
				if (++s < end && *s == 'u')
					return true;
			}
			else if (*s == '"')
				in_string = false;
			continue;
		}
		if (*s >= '0' && *s <= '9')
		{
			if (++digits > 1000)
				return true;
			continue;
		}
		if ((*s == 'e' || *s == 'E') && digits > 0)
			return true;
		if (*s != '.')
			digits = 0;
		if (*s == '"')
			in_string = true;
		else if (*s == '{' || *s == '[')
		{
			if (++depth > 100)
				return true;
		}
		else if (*s == '}' || *s == ']')
			depth--;
	}
	return false;
}

/*
 * Errors that are not the value's fault go on to the user.  An allocation that is too
 * large is an internal error to PostgreSQL, and a large value's own fault.
 */
static bool
is_value_error(int sqlerrcode, bool is_big)
{
	int			class = ERRCODE_TO_CATEGORY(sqlerrcode);

	return class != ERRCODE_TO_CATEGORY(ERRCODE_OPERATOR_INTERVENTION) &&
		class != ERRCODE_TO_CATEGORY(ERRCODE_INSUFFICIENT_RESOURCES) &&
		class != ERRCODE_TO_CATEGORY(ERRCODE_SYSTEM_ERROR) &&
		class != ERRCODE_TO_CATEGORY(ERRCODE_TRANSACTION_ROLLBACK) &&
		(is_big || class != ERRCODE_TO_CATEGORY(ERRCODE_INTERNAL_ERROR));
}

/*
 * Call to_jsonb() in a subtransaction, and put the stand-in where it raises.
 */
static JEntry
put_guarded(SauBuf *out, Codec *codec, Datum value)
{
	MemoryContext oldcxt = CurrentMemoryContext;
	ResourceOwner oldowner = CurrentResourceOwner;
	Size		before = out->len;
	bool		is_big = codec->typlen == -1 && toast_raw_datum_size(value) > GUARD_SIZE;
	volatile JEntry entry = 0;
	volatile bool refused = false;

	BeginInternalSubTransaction(NULL);
	MemoryContextSwitchTo(oldcxt);
	PG_TRY();
	{
		int			level = pin(codec->pins);

		if (codec->kind == CODEC_OUTPUT)
		{
			char	   *text = OutputFunctionCall(&codec->fn, value);

			unpin(level);
			if (strlen(text) > JENTRY_OFFLENMASK)
				ereport(ERROR,
						(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
						 errmsg("string too long to represent as jsonb string")));
			entry = put_string(out, text, strlen(text));
			pfree(text);
		}
		else
		{
			Datum		jsonb = FunctionCall1(&codec->fn, value);

			unpin(level);
			entry = put_jsonb_datum(out, jsonb);
		}
		ReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(oldcxt);
		CurrentResourceOwner = oldowner;
	}
	PG_CATCH();
	{
		ErrorData  *edata;

		MemoryContextSwitchTo(oldcxt);
		edata = CopyErrorData();
		if (!is_value_error(edata->sqlerrcode, is_big))
			PG_RE_THROW();
		FlushErrorState();
		FreeErrorData(edata);
		RollbackAndReleaseCurrentSubTransaction();
		MemoryContextSwitchTo(oldcxt);
		CurrentResourceOwner = oldowner;
		refused = true;
	}
	PG_END_TRY();
	if (refused)
	{
		out->len = before;
		return put_unrepresentable(out, codec, value);
	}
	return entry;
}

static JEntry
put_text(SauBuf *out, Codec *codec, Datum value)
{
	struct varlena *v = (struct varlena *) DatumGetPointer(value);
	JEntry		entry;

	if (unlikely(VARATT_IS_EXTERNAL(v) || VARATT_IS_COMPRESSED(v)))
	{
		if (toast_raw_datum_size(value) - VARHDRSZ > JENTRY_OFFLENMASK)
			return put_unrepresentable(out, codec, value);
		v = detoast_attr(v);
		entry = put_string(out, VARDATA_ANY(v), VARSIZE_ANY_EXHDR(v));
		pfree(v);
		return entry;
	}
	if (unlikely(VARSIZE_ANY_EXHDR(v) > JENTRY_OFFLENMASK))
		return put_unrepresentable(out, codec, value);
	return put_string(out, VARDATA_ANY(v), VARSIZE_ANY_EXHDR(v));
}

static JEntry
put_bytea(SauBuf *out, Codec *codec, Datum value)
{
	struct varlena *v;
	Size		len;
	JEntry		entry;

	if (2 * (toast_raw_datum_size(value) - VARHDRSZ) + 2 > JENTRY_OFFLENMASK)
		return put_unrepresentable(out, codec, value);
	v = PG_DETOAST_DATUM_PACKED(value);
	len = VARSIZE_ANY_EXHDR(v);
	sau_buf_reserve(out, 2 + 2 * len);
	out->data[out->len] = '\\';
	out->data[out->len + 1] = 'x';
	hex_encode(VARDATA_ANY(v), len, out->data + out->len + 2);
	out->len += 2 + 2 * len;
	entry = JENTRY_ISSTRING | (uint32) (2 + 2 * len);
	if ((Pointer) v != DatumGetPointer(value))
		pfree(v);
	return entry;
}

static JEntry
put_uuid(SauBuf *out, Datum value)
{
	const uint8 *b = DatumGetUUIDP(value)->data;
	char		text[2 * UUID_LEN + 4];
	char	   *p = text;

	for (int i = 0; i < UUID_LEN; i++)
	{
		if (i == 4 || i == 6 || i == 8 || i == 10)
			*p++ = '-';
		*p++ = "0123456789abcdef"[b[i] >> 4];
		*p++ = "0123456789abcdef"[b[i] & 15];
	}
	return put_string(out, text, p - text);
}

static JEntry
put_output(SauBuf *out, Codec *codec, Datum value)
{
	char	   *text;
	Size		len;
	JEntry		entry;

	if (codec->typlen == -1 && toast_raw_datum_size(value) > GUARD_SIZE)
		return put_guarded(out, codec, value);
	text = OutputFunctionCall(&codec->fn, value);
	len = strlen(text);
	entry = put_string(out, text, len);
	pfree(text);
	return entry;
}

/* Append one value and return its entry: type and length, padding included. */
static JEntry
put_value(SauBuf *out, Codec *codec, Datum value)
{
	switch (codec->kind)
	{
		case CODEC_BOOL:
			return DatumGetBool(value) ? JENTRY_ISBOOL_TRUE : JENTRY_ISBOOL_FALSE;
		case CODEC_INT2:
			return put_int64(out, DatumGetInt16(value));
		case CODEC_INT4:
			return put_int64(out, DatumGetInt32(value));
		case CODEC_INT8:
			return put_int64(out, DatumGetInt64(value));
		case CODEC_FLOAT4:
			return put_float(out, DatumGetFloat4(value), true);
		case CODEC_FLOAT8:
			return put_float(out, DatumGetFloat8(value), false);
		case CODEC_NUMERIC:
			return put_numeric(out, value);
		case CODEC_DATE:
			return put_datetime(out, value, DATEOID);
		case CODEC_TIMESTAMP:
			return put_datetime(out, value, TIMESTAMPOID);
		case CODEC_TIMESTAMPTZ:
			return put_datetime(out, value, TIMESTAMPTZOID);
		case CODEC_TEXT:
			return put_text(out, codec, value);
		case CODEC_NAME:
			return put_string(out, NameStr(*DatumGetName(value)), strlen(NameStr(*DatumGetName(value))));
		case CODEC_UUID:
			return put_uuid(out, value);
		case CODEC_BYTEA:
			return put_bytea(out, codec, value);
		case CODEC_JSONB:
			return put_jsonb_datum(out, value);
		case CODEC_OUTPUT:
			return put_output(out, codec, value);
		case CODEC_JSON:
			{
				struct varlena *v = PG_DETOAST_DATUM_PACKED(value);

				if (VARSIZE_ANY_EXHDR(v) > GUARD_SIZE ||
					json_looks_risky(VARDATA_ANY(v), VARSIZE_ANY_EXHDR(v)))
					return put_guarded(out, codec, value);
				return put_jsonb_datum(out, FunctionCall1(&codec->fn, PointerGetDatum(v)));
			}
		case CODEC_TO_JSONB:
			if (codec->guarded ||
				(codec->typlen == -1 && toast_raw_datum_size(value) > GUARD_SIZE))
				return put_guarded(out, codec, value);
			return put_jsonb_datum(out, FunctionCall1(&codec->fn, value));
	}
	elog(ERROR, "unknown codec %d", (int) codec->kind);
	return 0;
}

/*
 * Replace the value at the end of the buffer, from "before" on, by its keyed digest
 * (HMAC-SHA-256 over its type bits and bytes, padding left out): equal values have
 * equal digests, and nobody without the key can try values out.
 */
static JEntry
digest_value(SauBuf *out, Size before, JEntry entry)
{
	uint32		type = entry & JENTRY_TYPEMASK;
	Size		start = (type == JENTRY_ISNUMERIC || type == JENTRY_ISCONTAINER) ? TYPEALIGN(4, before) : before;
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	char		text[sizeof("hmac-sha256:") + 2 * PG_SHA256_DIGEST_LENGTH] = "hmac-sha256:";
	pg_hmac_ctx *ctx;

	if (secret_relid != sau_registry_relid("log_secret", false))
	{
		sau_registry_secret(secret, sizeof(secret));
		secret_relid = sau_registry_relid("log_secret", false);
	}
	ctx = pg_hmac_create(PG_SHA256);
	if (ctx == NULL || pg_hmac_init(ctx, secret, sizeof(secret)) < 0 ||
		pg_hmac_update(ctx, (uint8 *) &type, sizeof(type)) < 0 ||
		pg_hmac_update(ctx, (uint8 *) out->data + start, out->len - start) < 0 ||
		pg_hmac_final(ctx, digest, sizeof(digest)) < 0)
		elog(ERROR, "could not compute an HMAC-SHA-256 digest");
	pg_hmac_free(ctx);
	out->len = before;
	hex_of(digest, sizeof(digest), text + strlen("hmac-sha256:"));
	return put_string(out, text, strlen(text));
}

static JEntry
put_redacted(SauBuf *out, Codec *codec, Datum value)
{
	Size		before = out->len;
	JEntry		entry = put_value(out, codec, value);

	return digest_value(out, before, entry);
}

PG_FUNCTION_INFO_V1(softaudit_redacted);

/*
 * softaudit.redacted(value jsonb): the digest that stands for a value of a redacted
 * column; NULL for NULL and for the JSON null.
 */
Datum
softaudit_redacted(PG_FUNCTION_ARGS)
{
	Jsonb	   *value = PG_GETARG_JSONB_P(0);
	SauBuf		buf = {CurrentMemoryContext, NULL, 0, 0};
	JEntry		entry = put_jsonb(&buf, VARDATA(value), VARSIZE(value) - VARHDRSZ);

	if (JBE_ISNULL(entry))
		PG_RETURN_NULL();
	digest_value(&buf, 0, entry);
	PG_RETURN_TEXT_P(cstring_to_text_with_len(buf.data, (int) buf.len));
}

/* ---- writing rows ---- */

/* A column's value, computed if it is a virtual generated column. */
static inline Datum
value_of(SauImage *image, TupleTableSlot *slot, int att, bool *isnull)
{
	if (unlikely(image->virtuals && image->virtuals[att]))
	{
		image->econtext->ecxt_scantuple = slot;
		return ExecEvalExprSwitchContext(image->virtuals[att]->expr, image->econtext, isnull);
	}
	*isnull = slot->tts_isnull[att];
	return slot->tts_values[att];
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

	level = pin(pins);
	for (int i = 0; i < n; i++)
	{
		Codec	   *codec = &image->codecs[cols[i]];
		bool		isnull;
		Datum		value = value_of(image, slot, codec->attno - 1, &isnull);
		JEntry		entry;
		Size		before = out->len;

		if (isnull)
			entry = JENTRY_ISNULL;
		else if (unlikely(standin && standin[i]))
			entry = put_unrepresentable(out, codec, value);
		else if (unlikely(codec->redact))
			entry = put_redacted(out, codec, value);
		else
			entry = put_value(out, codec, value);

		if (out->len - before > biggest_len)
		{
			biggest_len = out->len - before;
			*biggest = i;
		}
		total += out->len - before;
		if (unlikely(total > JENTRY_OFFLENMASK))
		{
			unpin(level);
			out->len = start;
			return false;
		}
		if ((n + i) % JB_OFFSET_STRIDE == 0)
			entry = (entry & JENTRY_TYPEMASK) | (uint32) total | JENTRY_HAS_OFF;
		memcpy(out->data + entries + sizeof(JEntry) * i, &entry, sizeof(JEntry));
	}
	unpin(level);
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

/* Read a numeric in its stored form as a whole number inside int8; false if it is none. */
static bool
whole_number(const char *num, Size len, uint64 *result)
{
	uint16		header;
	uint16		digits[5];
	int			ndigits = ((int) len - VARHDRSZ) / (int) sizeof(uint16) - 1;
	int			weight;
	uint64		u = 0;

	memcpy(&header, num + VARHDRSZ, sizeof(header));
	weight = header & 0x3F;
	/* short format, weight not negative, no fraction whatever the display scale */
	if ((header & 0xC000) != 0x8000 || (header & 0x0040) != 0 ||
		ndigits > weight + 1 || weight > 4 || ndigits > 5)
		return false;
	memcpy(digits, num + VARHDRSZ + sizeof(uint16), ndigits * sizeof(uint16));
	for (int i = 0; i <= weight; i++)
		u = u * 10000 + (i < ndigits ? digits[i] : 0);
	*result = (header & 0x2000) ? -u : u;
	return true;
}

/*
 * The number that a key is indexed by in the log: the table's id above, a digest of
 * the key below.  A single whole number is its own digest (its low half), so that
 * neighbours in the table are neighbours in the index; anything else is hashed.
 *
 * A function of the key image's values alone, not of their names or order, so that a
 * key column may be renamed.  Keys that share a digest are told apart by readers.
 */
int64
sau_image_row_ref(int32 table_id, const JsonbContainer *key)
{
	int			n = JsonContainerSize(key);
	const char *values = (const char *) &key->children[2 * n];
	uint32		digest = 0;

	for (int i = n; i < 2 * n; i++)
	{
		JEntry		entry = key->children[i];
		uint32		off = getJsonbOffset(key, i);
		uint32		end = off + getJsonbLength(key, i);
		uint64		whole;

		if (JBE_ISNUMERIC(entry) || JBE_ISCONTAINER(entry))
			off = INTALIGN(off);
		if (n == 1 && JBE_ISNUMERIC(entry) && whole_number(values + off, end - off, &whole))
			digest = (uint32) whole;
		else if (JBE_ISNUMERIC(entry))
			/* 1.5 and 1.50 are one key */
			digest += DatumGetUInt32(DirectFunctionCall1(hash_numeric, PointerGetDatum(values + off)));
		else
			digest += hash_bytes((const unsigned char *) values + off, (int) (end - off)) ^
				((entry & JENTRY_TYPEMASK) >> 28);
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
		Codec	   *codec = &image->codecs[image->key.cols[0]];
		Datum		value = slot->tts_values[codec->attno - 1];
		uint32		digest = 0;

		/* sau_image_row_ref() says why */
		if (!codec->redact && codec->kind >= CODEC_INT2 && codec->kind <= CODEC_INT8)
		{
			digest = codec->kind == CODEC_INT8 ? (uint32) DatumGetInt64(value) :
				codec->kind == CODEC_INT4 ? (uint32) DatumGetInt32(value) :
				(uint32) (int32) DatumGetInt16(value);
			return (int64) (((uint64) (uint32) rel->table_id << 32) | digest);
		}
	}
	sau_buf_align4(scratch);
	start = scratch->len;
	sau_image_key(rel, relation, slot, scratch);
	ref = sau_image_row_ref(rel->table_id, (JsonbContainer *) (scratch->data + start + VARHDRSZ));
	scratch->len = before;
	return ref;
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

/* Are a column's values in two versions of a row the same? */
static bool
same_value(SauImage *image, Form_pg_attribute att, TupleTableSlot *oldslot, TupleTableSlot *newslot)
{
	bool		oldnull;
	bool		newnull;
	Datum		a = value_of(image, oldslot, att->attnum - 1, &oldnull);
	Datum		b = value_of(image, newslot, att->attnum - 1, &newnull);

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
