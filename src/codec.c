/*
 * codec.c
 *		One column's values in JSONB: chosen by type, written in one pass.
 *
 * Step of the path: image.c has a value and an object under construction; this file
 * appends the very bytes that to_jsonb() would make of the value, or the digest or the
 * stand-in that takes its place.
 *
 * Common types are written directly.  The others go through their output function or
 * through to_jsonb() itself, with the settings pinned that the type's output depends
 * on, and only those.
 *
 * What to_jsonb() refuses must not stop the write, so a codec that may meet such a
 * value is guarded (guard.c), and a stand-in takes the value's place.
 *
 * Mirrored here: jsonb_categorize_type() and datum_to_jsonb() in jsonb.c,
 * convertJsonbScalar() in jsonb_util.c, make_result() in numeric.c,
 * JsonEncodeDateTime() in json.c.
 */
#include "postgres.h"

#include "access/detoast.h"
#include "catalog/namespace.h"
#include "catalog/pg_type.h"
#include "commands/defrem.h"
#include "common/cryptohash.h"
#include "common/hmac.h"
#include "common/sha2.h"
#include "common/shortest_dec.h"
#include "nodes/makefuncs.h"
#include "parser/parse_coerce.h"
#include "pgtime.h"
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
#include "utils/numeric.h"
#include "utils/timestamp.h"
#include "utils/uuid.h"

/*
 * Longer values may make to_jsonb() fail for their size alone: it takes arrays of 2^24 elements,
 * and a NULL of an array takes a bit.  A numeric of a few bytes may have a text of 147,457
 * characters, so what shows numerics within a text may fail from much less on.
 */
#define GUARD_SIZE			(2 * 1024 * 1024)
#define GUARD_SIZE_NUMERICS	(4 * 1024)

static uint8 secret[PG_SHA256_DIGEST_LENGTH];
static Oid	secret_relid = InvalidOid;	/* where it was read from */

/* ---- choosing a codec ---- */

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

/* From what size on a value of this type may be too large for its image. */
static Size
guard_size(Oid typid)
{
	Oid			elem;

	typid = getBaseType(typid);
	elem = get_element_type(typid);
	if (OidIsValid(elem))
		return guard_size(elem);
	return typid == NUMRANGEOID || typid == NUMMULTIRANGEOID || typid == JSONPATHOID ?
		GUARD_SIZE_NUMERICS : GUARD_SIZE;
}

static void
use_to_jsonb(SauCodec *codec, MemoryContext cxt)
{
	Node	   *arg;

	codec->kind = SAU_CODEC_TO_JSONB;
	fmgr_info_cxt(F_TO_JSONB, &codec->fn, cxt);
	/* to_jsonb() reads the type of its argument from the call's expression. */
	arg = (Node *) makeNullConst(codec->atttypid, -1, InvalidOid);
	fmgr_info_set_expr((Node *) makeFuncExpr(F_TO_JSONB, JSONBOID, list_make1(arg),
											 InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL),
					   &codec->fn);
}

static void
use_output(SauCodec *codec, Oid typid, MemoryContext cxt)
{
	Oid			outfunc;
	bool		isvarlena;

	getTypeOutputInfo(typid, &outfunc, &isvarlena);
	codec->kind = SAU_CODEC_OUTPUT;
	fmgr_info_cxt(outfunc, &codec->fn, cxt);
	if (codec->fn.fn_addr == textout)
		codec->kind = SAU_CODEC_TEXT;
}

/* Choose how a column is written; mirrors jsonb_categorize_type(). */
void
sau_codec_choose(SauCodec *codec, MemoryContext cxt)
{
	Oid			typid = getBaseType(codec->atttypid);

	codec->pins = 0;
	switch (typid)
	{
		case BOOLOID:
			codec->kind = SAU_CODEC_BOOL;
			return;
		case INT2OID:
			codec->kind = SAU_CODEC_INT2;
			return;
		case INT4OID:
			codec->kind = SAU_CODEC_INT4;
			return;
		case INT8OID:
			codec->kind = SAU_CODEC_INT8;
			return;
		case FLOAT4OID:
			codec->kind = SAU_CODEC_FLOAT4;
			return;
		case FLOAT8OID:
			codec->kind = SAU_CODEC_FLOAT8;
			return;
		case NUMERICOID:
			codec->kind = SAU_CODEC_NUMERIC;
			return;
		case DATEOID:
			codec->kind = SAU_CODEC_DATE;
			return;
		case TIMESTAMPOID:
			codec->kind = SAU_CODEC_TIMESTAMP;
			return;
		case TIMESTAMPTZOID:
			codec->kind = SAU_CODEC_TIMESTAMPTZ;
			return;
		case TEXTOID:
		case VARCHAROID:
		case BPCHAROID:
			codec->kind = SAU_CODEC_TEXT;
			return;
		case NAMEOID:
			codec->kind = SAU_CODEC_NAME;
			return;
		case UUIDOID:
			codec->kind = SAU_CODEC_UUID;
			return;
		case BYTEAOID:
			codec->kind = SAU_CODEC_BYTEA;
			return;
		case JSONBOID:
			codec->kind = SAU_CODEC_JSONB;
			return;
		case JSONOID:
			use_to_jsonb(codec, cxt);
			codec->kind = SAU_CODEC_JSON;
			codec->guard_size = GUARD_SIZE;
			return;
		default:
			break;
	}

	codec->pins = sau_pins_of(typid);
	codec->guarded = may_refuse(typid);
	codec->guard_size = guard_size(typid);
	if (OidIsValid(get_element_type(typid)) || typid == ANYARRAYOID ||
		typid == RECORDARRAYOID || type_is_rowtype(typid) || has_json_cast(typid))
		use_to_jsonb(codec, cxt);
	else
	{
		use_output(codec, typid, cxt);
		if (codec->kind == SAU_CODEC_TEXT)
		{
			codec->pins = 0;
			codec->guarded = false;
		}
		else if (codec->guarded)
			use_to_jsonb(codec, cxt);
	}
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

/* The numbers from 00 to 99, two bytes each. */
static const char two_digit_texts[] =
	"00010203040506070809" "10111213141516171819" "20212223242526272829" "30313233343536373839"
	"40414243444546474849" "50515253545556575859" "60616263646566676869" "70717273747576777879"
	"80818283848586878889" "90919293949596979899";

static inline char *
two_digits(char *p, int v)
{
	memcpy(p, two_digit_texts + 2 * v, 2);
	return p + 2;
}

#define YMD_LEN 10				/* 2000-01-31 */

/* A row's times are often of one day, and so are those of its neighbours: the last date is kept. */
static inline char *
put_ymd(char *p, int julian)
{
	static int	last_julian = -1;
	static char last_text[YMD_LEN];

	if (julian != last_julian)
	{
		char	   *t = last_text;
		int			y,
					m,
					d;

		j2date(julian, &y, &m, &d);
		t = two_digits(t, y / 100);
		t = two_digits(t, y % 100);
		*t++ = '-';
		t = two_digits(t, m);
		*t++ = '-';
		two_digits(t, d);
		last_julian = julian;
	}
	memcpy(p, last_text, YMD_LEN);
	return p + YMD_LEN;
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

/* Put a stand-in; a value that there is none of has neither size nor digest. */
static JEntry
put_standin(SauBuf *out, SauCodec *codec, Size len, const char *digest)
{
	SauJsonbState state = {0};
	JsonbValue	v;
	Jsonb	   *object;

	sau_compat_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	push_text(&state, WJB_KEY, "$softaudit");
	push_text(&state, WJB_VALUE, "unrepresentable");
	push_text(&state, WJB_KEY, "type");
	push_text(&state, WJB_VALUE, type_name(codec->atttypid));
	push_text(&state, WJB_KEY, "bytes");
	v.type = jbvNull;
	if (digest)
	{
		v.type = jbvNumeric;
		v.val.numeric = int64_to_numeric(len);
	}
	sau_compat_push_jsonb(&state, WJB_VALUE, &v);
	push_text(&state, WJB_KEY, "sha256");
	if (digest)
		push_text(&state, WJB_VALUE, digest);
	else
		sau_compat_push_jsonb(&state, WJB_VALUE, &v);
	sau_compat_push_jsonb(&state, WJB_END_OBJECT, NULL);
	object = JsonbValueToJsonb(state.result);
	return put_jsonb(out, VARDATA(object), VARSIZE(object) - VARHDRSZ);
}

/* The stand-in for a value that JSONB cannot hold: its type, size and digest. */
JEntry
sau_codec_put_standin(SauBuf *out, SauCodec *codec, Datum value)
{
	const char *bytes;
	Size		len;
	Datum		flat = value;
	uint8		digest[PG_SHA256_DIGEST_LENGTH];
	char		hex[2 * PG_SHA256_DIGEST_LENGTH + 1];
	pg_cryptohash_ctx *ctx = pg_cryptohash_create(PG_SHA256);
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
	entry = put_standin(out, codec, len, hex);
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

/* A value whose output may raise, and what came of it. */
typedef struct Output
{
	SauBuf	   *out;
	SauCodec   *codec;
	Datum		value;
	JEntry		entry;
} Output;

static void
put_whole_output(void *arg)
{
	Output	   *o = arg;
	int			level = sau_pins_set(o->codec->pins);

	if (o->codec->kind == SAU_CODEC_OUTPUT)
	{
		char	   *text = OutputFunctionCall(&o->codec->fn, o->value);

		sau_pins_reset(level);
		if (strlen(text) > JENTRY_OFFLENMASK)
			ereport(ERROR,
					(errcode(ERRCODE_PROGRAM_LIMIT_EXCEEDED),
					 errmsg("string too long to represent as jsonb string")));
		o->entry = put_string(o->out, text, strlen(text));
		pfree(text);
	}
	else
	{
		Datum		jsonb = FunctionCall1(&o->codec->fn, o->value);

		sau_pins_reset(level);
		o->entry = put_jsonb_datum(o->out, jsonb);
	}
}

/* May a value's size alone make its output fail? */
static inline bool
is_big(const SauCodec *codec, Datum value)
{
	return codec->typlen == -1 && toast_raw_datum_size(value) > codec->guard_size;
}

/* Put a value's output, or the stand-in where it raises. */
static JEntry
put_guarded(SauBuf *out, SauCodec *codec, Datum value)
{
	Size		before = out->len;
	Output		output = {out, codec, value};

	if (sau_guard_run(put_whole_output, &output, is_big(codec, value)))
		return output.entry;
	out->len = before;
	return sau_codec_put_standin(out, codec, value);
}

static JEntry
put_text(SauBuf *out, SauCodec *codec, Datum value)
{
	struct varlena *v = (struct varlena *) DatumGetPointer(value);
	JEntry		entry;

	if (unlikely(VARATT_IS_EXTERNAL(v) || VARATT_IS_COMPRESSED(v)))
	{
		if (toast_raw_datum_size(value) - VARHDRSZ > JENTRY_OFFLENMASK)
			return sau_codec_put_standin(out, codec, value);
		v = detoast_attr(v);
		entry = put_string(out, VARDATA_ANY(v), VARSIZE_ANY_EXHDR(v));
		pfree(v);
		return entry;
	}
	if (unlikely(VARSIZE_ANY_EXHDR(v) > JENTRY_OFFLENMASK))
		return sau_codec_put_standin(out, codec, value);
	return put_string(out, VARDATA_ANY(v), VARSIZE_ANY_EXHDR(v));
}

static JEntry
put_bytea(SauBuf *out, SauCodec *codec, Datum value)
{
	struct varlena *v;
	Size		len;
	JEntry		entry;

	if (2 * (toast_raw_datum_size(value) - VARHDRSZ) + 2 > JENTRY_OFFLENMASK)
		return sau_codec_put_standin(out, codec, value);
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
put_output(SauBuf *out, SauCodec *codec, Datum value)
{
	char	   *text;
	Size		len;
	JEntry		entry;

	if (is_big(codec, value))
		return put_guarded(out, codec, value);
	text = OutputFunctionCall(&codec->fn, value);
	len = strlen(text);
	entry = put_string(out, text, len);
	pfree(text);
	return entry;
}

static JEntry
put_value(SauBuf *out, SauCodec *codec, Datum value)
{
	switch (codec->kind)
	{
		case SAU_CODEC_BOOL:
			return DatumGetBool(value) ? JENTRY_ISBOOL_TRUE : JENTRY_ISBOOL_FALSE;
		case SAU_CODEC_INT2:
			return put_int64(out, DatumGetInt16(value));
		case SAU_CODEC_INT4:
			return put_int64(out, DatumGetInt32(value));
		case SAU_CODEC_INT8:
			return put_int64(out, DatumGetInt64(value));
		case SAU_CODEC_FLOAT4:
			return put_float(out, DatumGetFloat4(value), true);
		case SAU_CODEC_FLOAT8:
			return put_float(out, DatumGetFloat8(value), false);
		case SAU_CODEC_NUMERIC:
			return put_numeric(out, value);
		case SAU_CODEC_DATE:
			return put_datetime(out, value, DATEOID);
		case SAU_CODEC_TIMESTAMP:
			return put_datetime(out, value, TIMESTAMPOID);
		case SAU_CODEC_TIMESTAMPTZ:
			return put_datetime(out, value, TIMESTAMPTZOID);
		case SAU_CODEC_TEXT:
			return put_text(out, codec, value);
		case SAU_CODEC_NAME:
			return put_string(out, NameStr(*DatumGetName(value)), strlen(NameStr(*DatumGetName(value))));
		case SAU_CODEC_UUID:
			return put_uuid(out, value);
		case SAU_CODEC_BYTEA:
			return put_bytea(out, codec, value);
		case SAU_CODEC_JSONB:
			return put_jsonb_datum(out, value);
		case SAU_CODEC_OUTPUT:
			return put_output(out, codec, value);
		case SAU_CODEC_JSON:
			{
				struct varlena *v = PG_DETOAST_DATUM_PACKED(value);

				if (VARSIZE_ANY_EXHDR(v) > GUARD_SIZE ||
					json_looks_risky(VARDATA_ANY(v), VARSIZE_ANY_EXHDR(v)))
					return put_guarded(out, codec, value);
				return put_jsonb_datum(out, FunctionCall1(&codec->fn, PointerGetDatum(v)));
			}
		case SAU_CODEC_TO_JSONB:
			if (codec->guarded || is_big(codec, value))
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

	if (secret_relid != sau_objects_relid("log_secret", false))
	{
		sau_objects_secret(secret, sizeof(secret));
		secret_relid = sau_objects_relid("log_secret", false);
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

/*
 * Append one value that is not NULL, or its digest where the column is redacted, and
 * return its entry: type and length, padding included.  The caller has pinned the
 * settings that codec->pins names.
 */
JEntry
sau_codec_put(SauBuf *out, SauCodec *codec, Datum value)
{
	Size		before = out->len;
	JEntry		entry = put_value(out, codec, value);

	return unlikely(codec->redact) ? digest_value(out, before, entry) : entry;
}

/* The same for a value that cannot be computed. */
JEntry
sau_codec_put_uncomputed(SauBuf *out, SauCodec *codec)
{
	Size		before = out->len;
	JEntry		entry = put_standin(out, codec, 0, NULL);

	return codec->redact ? digest_value(out, before, entry) : entry;
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

/* Read a numeric in its stored form as a whole number inside int8; false if it is none. */
bool
sau_codec_whole_number(const char *num, Size len, uint64 *result)
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
