/*
 * history.c
 *		A row's history, read straight from the log's leaves.
 *
 * The way back: a key as the user writes it becomes the key image that capture
 * would have logged; each leaf of the table's log groups is asked for it through its
 * key index.  No plan is made over the log's partitions, which would cost more than
 * the reading.
 *
 * Who may see: whoever may SELECT all columns of the table.  Who may by grants on the
 * columns alone sees of the images those columns; one that was dropped, and had the name
 * of one that is there now perhaps, was never granted to him.  Where row security applies
 * to him, the row must be visible to him now.  When in doubt, nothing.
 *
 * An UPDATE of the key ties two keys together.  From the key that was asked for, its
 * predecessors are followed back from the change on, its successors forward; under each,
 * as far as it was the same row's.  Under row security there is only the row that has
 * the key now.  What was logged while the primary key was of other columns is left out:
 * values that look the same there are another row's.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/relscan.h"
#include "access/table.h"
#include "access/tableam.h"
#include "catalog/pg_am.h"
#include "catalog/pg_operator.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "softaudit.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rls.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"
#include "utils/tuplestore.h"
#include "utils/typcache.h"

/* Columns of softaudit.changes, in the order of the SQL script. */
enum ChangesAttr
{
	CHANGES_AUDIT_ID,
	CHANGES_CHANGED_AT,
	CHANGES_XID,
	CHANGES_OPERATION,
	CHANGES_CHANGED_BY,
	CHANGES_OLD_DATA,
	CHANGES_NEW_DATA,
	CHANGES_SCHEMA_NAME,
	CHANGES_TABLE_NAME,
	CHANGES_ROW_KEY,
	CHANGES_CHANGED_COLUMNS,
	CHANGES_SESSION_USER_NAME,
	CHANGES_APPLICATION_NAME,
	CHANGES_CLIENT_ADDR,
	CHANGES_CONTEXT,
	CHANGES_ORIGIN,
	CHANGES_PARTITION_NAME,
	CHANGES_NATTS
};

/* Columns of softaudit.log_sessions that are shown. */
#define SESSION_USER_NAME			3
#define SESSION_APPLICATION_NAME	4
#define SESSION_CLIENT_ADDR			5
#define SESSION_CONTEXT				8
#define SESSION_ORIGIN				9

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

/* Another image of the same key. */
typedef struct KeyForm
{
	Jsonb	   *key;
	int64		ref;
} KeyForm;

/* Of so many columns of a key other forms are looked for. */
#define MAX_TWO_FORMS	4

/* All that the log has of a key, oldest first. */
typedef struct KeyLog
{
	Jsonb	   *key;
	int64		ref;
	List	   *forms;			/* KeyForm */
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

typedef struct Found
{
	int64		audit_id;
	HeapTuple	tuple;
	TupleDesc	desc;
} Found;

typedef struct Reading
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
	Found	   *found;
	int			n;
	int			cap;
	HTAB	   *seen;			/* audit_id, so that a row is shown once */
	TupleDesc	columns;		/* those that images are shown of; NULL for all they hold */
	int64	   *column_since;	/* from which log row on, by attnum - 1 */
} Reading;

/* ---- who may see ---- */

/* Raise unless the current user may SELECT every column.  Is it by grants on the columns alone? */
static bool
check_select(Oid relid)
{
	if (pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK)
		return false;
	if (pg_attribute_aclcheck_all(relid, GetUserId(), ACL_SELECT, ACLMASK_ALL) != ACLCHECK_OK)
		aclcheck_error(ACLCHECK_NO_PRIV, get_relkind_objtype(get_rel_relkind(relid)),
					   get_rel_name(relid));
	return true;
}

static char *
qualified_operator(Oid oper)
{
	HeapTuple	tuple = SearchSysCache1(OPEROID, ObjectIdGetDatum(oper));
	Form_pg_operator form;
	char	   *result;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for operator %u", oper);
	form = (Form_pg_operator) GETSTRUCT(tuple);
	result = psprintf("OPERATOR(%s.%s)", quote_identifier(get_namespace_name(form->oprnamespace)), NameStr(form->oprname));
	ReleaseSysCache(tuple);
	return result;
}

/* The operator by which a primary key tells its values apart, qualified: of each column, in index order. */
static char **
key_operators(Relation relation, const Oid *types, int nkeys)
{
	char	  **operators = palloc0(nkeys * sizeof(char *));
	List	   *indexes = RelationGetIndexList(relation);
	ListCell   *lc;

	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), AccessShareLock);

		for (int i = 0; index->rd_index->indisprimary && i < nkeys; i++)
		{
			Oid			oper = InvalidOid;

			if (index->rd_rel->relam == BTREE_AM_OID)
				oper = get_opfamily_member(index->rd_opfamily[i], index->rd_opcintype[i], index->rd_opcintype[i],
										   BTEqualStrategyNumber);
			else
				oper = lookup_type_cache(types[i], TYPECACHE_EQ_OPR)->eq_opr;
			if (!OidIsValid(oper))
				elog(ERROR, "no equality for column %d of index %u", i + 1, RelationGetRelid(index));
			operators[i] = qualified_operator(oper);
		}
		index_close(index, AccessShareLock);
	}
	return operators;
}

/* Does the row with this key exist, as far as the current user's row security lets him see? */
static bool
is_visible_now(SauRel *rel, Relation relation, TupleTableSlot *slot)
{
	int			nkeys;
	const AttrNumber *attnums = sau_image_key_attnums(rel, relation, &nkeys);
	StringInfoData sql;
	Oid		   *types = palloc(nkeys * sizeof(Oid));
	Datum	   *values = palloc(nkeys * sizeof(Datum));
	bool		visible;
	char	  **operators;
	int			ret;

	for (int i = 0; i < nkeys; i++)
		types[i] = getBaseType(TupleDescAttr(RelationGetDescr(relation), attnums[i] - 1)->atttypid);
	operators = key_operators(relation, types, nkeys);
	initStringInfo(&sql);
	/* a child by inheritance has rows, keys and policies of its own */
	appendStringInfo(&sql, "SELECT 1 FROM %s%s WHERE ",
					 relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE ? "" : "ONLY ",
					 quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
												RelationGetRelationName(relation)));
	for (int i = 0; i < nkeys; i++)
	{
		Form_pg_attribute att = TupleDescAttr(RelationGetDescr(relation), attnums[i] - 1);

		appendStringInfo(&sql, "%s%s %s $%d", i > 0 ? " AND " : "",
						 quote_identifier(NameStr(att->attname)), operators[i], i + 1);
		values[i] = slot->tts_values[attnums[i] - 1];
	}
	SPI_connect();
	ret = SPI_execute_with_args(sql.data, nkeys, types, values, NULL, true, 1);
	if (ret != SPI_OK_SELECT)
		elog(ERROR, "SPI_execute_with_args failed: %s", SPI_result_code_string(ret));
	visible = SPI_processed > 0;
	SPI_finish();
	return visible;
}

/* ---- reading ---- */

static int64
get_int8(HeapTuple tuple, TupleDesc desc, int attno)
{
	bool		isnull;

	return DatumGetInt64(heap_getattr(tuple, attno, desc, &isnull));
}

/* A JSONB column's value, or NULL; in the current memory context, detoasted. */
static Jsonb *
get_jsonb(HeapTuple tuple, TupleDesc desc, int attno)
{
	bool		isnull;
	Datum		d = heap_getattr(tuple, attno, desc, &isnull);

	return isnull ? NULL : DatumGetJsonbPCopy(d);
}

/*
 * The key of a log row: its own column, else made of the image's columns that the
 * registry names; NULL if it had none.
 */
static Jsonb *
key_from_image(Jsonb *image, char **names, int n)
{
	SauJsonbState state = {0};
	JsonbValue *found;
	JsonbValue	name;

	if (image == NULL || n == 0 || !JB_ROOT_IS_OBJECT(image))
		return NULL;
	sau_compat_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	for (int i = 0; i < n; i++)
	{
		found = getKeyJsonValueFromContainer(&image->root, names[i], strlen(names[i]), NULL);
		if (found == NULL)
			return NULL;
		name.type = jbvString;
		name.val.string.val = names[i];
		name.val.string.len = strlen(names[i]);
		sau_compat_push_jsonb(&state, WJB_KEY, &name);
		sau_compat_push_jsonb(&state, WJB_VALUE, found);
	}
	sau_compat_push_jsonb(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(state.result);
}

static bool
same_jsonb(Jsonb *a, Jsonb *b)
{
	return VARSIZE(a) == VARSIZE(b) && memcmp(a, b, VARSIZE(a)) == 0;
}

/* The value of an object's pair as a JSONB value of its own, and its name. */
static Jsonb *
value_at(Jsonb *object, int i, JsonbValue *name)
{
	JsonbIterator *it = JsonbIteratorInit(&object->root);
	JsonbValue	value;

	JsonbIteratorNext(&it, &value, true);
	for (int n = 0; n <= i; n++)
	{
		JsonbIteratorNext(&it, name, true);
		JsonbIteratorNext(&it, &value, true);
	}
	return JsonbValueToJsonb(&value);
}

/*
 * Are two key images of one table the same key?  A key column may have been renamed in
 * between: names that both have must have the same value, the rest of the values must
 * be the same ones.
 */
static bool
same_key(Jsonb *a, Jsonb *b)
{
	int			n = JB_ROOT_COUNT(a);
	bool		used[INDEX_MAX_KEYS] = {false};

	if (compareJsonbContainers(&a->root, &b->root) == 0)
		return true;
	if (JB_ROOT_COUNT(b) != n || n > INDEX_MAX_KEYS)
		return false;
	for (int pass = 0; pass < 2; pass++)
		for (int i = 0; i < n; i++)
		{
			JsonbValue	name_a;
			JsonbValue *same_name;
			Jsonb	   *va = value_at(a, i, &name_a);
			bool		matched = false;

			same_name = getKeyJsonValueFromContainer(&b->root, name_a.val.string.val,
													 name_a.val.string.len, NULL);
			if ((same_name != NULL) != (pass == 0))
				continue;
			for (int j = 0; j < n && !matched; j++)
			{
				JsonbValue	name_b;
				Jsonb	   *vb = value_at(b, j, &name_b);
				bool		names_match = name_a.val.string.len == name_b.val.string.len &&
					memcmp(name_a.val.string.val, name_b.val.string.val, name_a.val.string.len) == 0;

				if (!used[j] && (names_match || pass == 1) && compareJsonbContainers(&va->root, &vb->root) == 0)
					matched = used[j] = true;
			}
			if (!matched)
				return false;
		}
	return true;
}

/*
 * The number that a key is indexed by, of an image without its table: its columns are
 * called what the key's are called now (or last), or were when the table was enabled.
 */
static int64
ref_of_image(int32 table_id, const JsonbContainer *key)
{
	int			n = JsonContainerSize(key);
	int			order[INDEX_MAX_KEYS];
	int			first_order[INDEX_MAX_KEYS];
	int			n_names;
	int			known = -1;
	char	  **names;

	if (n == 1 || n > INDEX_MAX_KEYS)
		return sau_image_row_ref(table_id, key, NULL);
	names = sau_registry_key_columns(table_id, &n_names);
	if (n_names == n)
		known = sau_image_key_order(key, names, n, order);
	names = sau_registry_image_key(table_id, &n_names);
	if (n_names == n && known < n && sau_image_key_order(key, names, n, first_order) > known)
		return sau_image_row_ref(table_id, key, first_order);
	return sau_image_row_ref(table_id, key, known >= 0 ? order : NULL);
}

/* A number for its text, or the text for a number that is written as PostgreSQL writes it; false for any other value. */
static bool
other_form(JsonbValue *value)
{
	if (value->type == jbvNumeric)
	{
		char	   *digits = DatumGetCString(DirectFunctionCall1(numeric_out, NumericGetDatum(value->val.numeric)));

		value->type = jbvString;
		value->val.string.val = digits;
		value->val.string.len = strlen(digits);
		return true;
	}
	if (value->type == jbvString)
	{
		char	   *digits = pnstrdup(value->val.string.val, value->val.string.len);
		char	   *p = digits + (*digits == '-');
		size_t		whole = strspn(p, "0123456789");
		size_t		rest = p[whole] == '.' ? strspn(p + whole + 1, "0123456789") : 0;

		if (whole == 0 || whole > 100 || rest > 100 || (*p == '0' && whole > 1) ||
			p[whole + (p[whole] == '.') + rest] != '\0' || (p[whole] == '.' && rest == 0))
			return false;
		value->type = jbvNumeric;
		value->val.numeric = DatumGetNumeric(DirectFunctionCall3(numeric_in, CStringGetDatum(digits),
																 ObjectIdGetDatum(InvalidOid), Int32GetDatum(-1)));
		return true;
	}
	return false;
}

/*
 * The images that a key was logged by where its columns were of other types: for a number
 * its text and the other way round, in each of the first columns that have both.
 */
static void
add_forms(Reading *reading, KeyLog *log)
{
	int			n = JB_ROOT_COUNT(log->key);

	for (int mask = 1; reading->is_retyped && mask < 1 << Min(n, MAX_TWO_FORMS); mask++)
	{
		SauJsonbState state = {0};
		KeyForm    *form;
		int			i;

		sau_compat_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
		for (i = 0; i < n; i++)
		{
			JsonbValue	name;
			JsonbValue *value;

			(void) value_at(log->key, i, &name);
			value = getKeyJsonValueFromContainer(&log->key->root, name.val.string.val, name.val.string.len, NULL);
			if (i < MAX_TWO_FORMS && (mask & (1 << i)) && !other_form(value))
				break;
			sau_compat_push_jsonb(&state, WJB_KEY, &name);
			sau_compat_push_jsonb(&state, WJB_VALUE, value);
		}
		if (i < n)
			continue;
		sau_compat_push_jsonb(&state, WJB_END_OBJECT, NULL);
		form = palloc(sizeof(KeyForm));
		form->key = JsonbValueToJsonb(state.result);
		form->ref = ref_of_image(reading->rel->table_id, &form->key->root);
		log->forms = lappend(log->forms, form);
	}
}

/* Is a key image the log's key, in one of its forms? */
static bool
is_key(KeyLog *log, Jsonb *key)
{
	ListCell   *lc;

	if (key == NULL)
		return false;
	if (same_key(key, log->key))
		return true;
	foreach(lc, log->forms)
		if (same_key(key, ((KeyForm *) lfirst(lc))->key))
			return true;
	return false;
}

static bool
is_ref(KeyLog *log, int64 ref)
{
	ListCell   *lc;

	foreach(lc, log->forms)
		if (((KeyForm *) lfirst(lc))->ref == ref)
			return true;
	return log->ref == ref;
}

/* A log row's key, and its old key if it changed; NULL where there is none. */
static void
keys_of_row(Reading *reading, HeapTuple tuple, TupleDesc desc, Jsonb **key, Jsonb **old_key)
{
	bool		changed = !heap_attisnull(tuple, SAU_LOG_OLD_ROW_REF, desc);

	*key = get_jsonb(tuple, desc, SAU_LOG_ROW_KEY);
	*old_key = changed ? get_jsonb(tuple, desc, SAU_LOG_OLD_ROW_KEY) : NULL;
	if (*key == NULL)
	{
		Jsonb	   *old_data = get_jsonb(tuple, desc, SAU_LOG_OLD_DATA);
		Jsonb	   *new_data = get_jsonb(tuple, desc, SAU_LOG_NEW_DATA);

		*key = key_from_image(new_data ? new_data : old_data, reading->image_key, reading->n_image_key);
		if (changed)
			*old_key = key_from_image(old_data, reading->image_key, reading->n_image_key);
	}
}

static void
add_segment(Reading *reading, Jsonb *key, int64 ref, Stretch stretch, int64 at, int64 xid)
{
	Segment    *s;
	ListCell   *lc;

	foreach(lc, reading->segments)
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
	reading->segments = lappend(reading->segments, s);
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
see_event(Reading *reading, KeyLog *log, HeapTuple tuple, TupleDesc desc, Event *event)
{
	int64		ref = get_int8(tuple, desc, SAU_LOG_ROW_REF);
	bool		changed = !heap_attisnull(tuple, SAU_LOG_OLD_ROW_REF, desc);
	int64		old_ref = changed ? get_int8(tuple, desc, SAU_LOG_OLD_ROW_REF) : ref;
	bool		is_now = false;
	bool		was_before = false;

	memset(event, 0, sizeof(*event));
	event->audit_id = get_int8(tuple, desc, SAU_LOG_AUDIT_ID);
	if (log->key != NULL && event->audit_id < reading->key_since)
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

		keys_of_row(reading, tuple, desc, &key, &old_key);
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
	event->xid = get_int8(tuple, desc, SAU_LOG_XID);
	event->tuple = heap_copytuple(tuple);
	event->desc = desc;
	return true;
}

static void
scan_index(Reading *reading, KeyLog *log, int64 ref, Relation leaf, Oid indexid, TupleDesc desc)
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
		if (see_event(reading, log, tuple, desc, &event))
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
scan_leaf(Reading *reading, KeyLog *log, Oid leafid)
{
	Relation	leaf = try_table_open(leafid, AccessShareLock);
	SauLeaf		info;
	TupleDesc	desc;
	ListCell   *lc;

	if (leaf == NULL)
		return;
	desc = CreateTupleDescCopy(RelationGetDescr(leaf));
	sau_partition_leaf_indexes(leaf, &info);
	scan_index(reading, log, log->ref, leaf, info.key_index, desc);
	scan_index(reading, log, log->ref, leaf, info.old_key_index, desc);
	foreach(lc, log->forms)
	{
		int64		ref = ((KeyForm *) lfirst(lc))->ref;

		scan_index(reading, log, ref, leaf, info.key_index, desc);
		scan_index(reading, log, ref, leaf, info.old_key_index, desc);
	}
	table_close(leaf, AccessShareLock);
}

static int
compare_events(const void *a, const void *b)
{
	int64		ia = ((const Event *) a)->audit_id;
	int64		ib = ((const Event *) b)->audit_id;

	return ia < ib ? -1 : ia > ib;
}

static int
compare_found(const void *a, const void *b)
{
	int64		ia = ((const Found *) a)->audit_id;
	int64		ib = ((const Found *) b)->audit_id;

	return ia < ib ? -1 : ia > ib;
}

/* Read what the log has of a key; with NULL for it, the TRUNCATEs of the whole table. */
static KeyLog *
read_key(Reading *reading, Jsonb *key, int64 ref)
{
	KeyLog	   *log = palloc0(sizeof(KeyLog));
	ListCell   *lc;
	int			n = 0;

	log->key = key;
	log->ref = ref;
	if (key)
		add_forms(reading, log);
	foreach(lc, reading->leaves)
		scan_leaf(reading, log, lfirst_oid(lc));
	if (log->n > 1)
		qsort(log->events, log->n, sizeof(Event), compare_events);
	/* a change between keys that share a digest is found by both indexes, forms may share one, too */
	for (int i = 0; i < log->n; i++)
		if (n == 0 || log->events[n - 1].audit_id != log->events[i].audit_id)
			log->events[n++] = log->events[i];
	log->n = n;
	return log;
}

static KeyLog *
log_of_key(Reading *reading, Jsonb *key, int64 ref)
{
	KeyLog	   *log;
	ListCell   *lc;

	foreach(lc, reading->keys)
	{
		log = lfirst(lc);
		if (is_ref(log, ref) && is_key(log, key))
			return log;
	}
	log = read_key(reading, key, ref);
	reading->keys = lappend(reading->keys, log);
	return log;
}

/* The audit_id of the last TRUNCATE before an event, or of the first one after it. */
static int64
truncate_near(Reading *reading, int64 at, bool before)
{
	int64		near = before ? PG_INT64_MIN : PG_INT64_MAX;
	KeyLog	   *log;

	if (reading->truncates == NULL)
		reading->truncates = read_key(reading, NULL, (int64) ((uint64) (uint32) reading->rel->table_id << 32));
	log = reading->truncates;
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
take_event(Reading *reading, Event *event)
{
	bool		seen;

	hash_search(reading->seen, &event->audit_id, HASH_ENTER, &seen);
	if (seen)
		return;
	if (reading->n >= reading->cap)
	{
		reading->cap = Max(64, reading->cap * 2);
		reading->found = reading->found ?
			repalloc_huge(reading->found, reading->cap * sizeof(Found)) :
			palloc(reading->cap * sizeof(Found));
	}
	reading->found[reading->n].audit_id = event->audit_id;
	reading->found[reading->n].tuple = event->tuple;
	reading->found[reading->n++].desc = event->desc;
}

/* Take the events of a segment, and see where its row came from or went. */
static void
read_segment(Reading *reading, Segment *segment)
{
	KeyLog	   *log = log_of_key(reading, segment->key, segment->ref);
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
			begin = begin_of_stretch(log, end, segment->xid, truncate_near(reading, segment->at, true));
			break;
		case STRETCH_AFTER:
			if (at >= log->n)
				return;
			begin = at;
			end = end_of_stretch(log, begin, truncate_near(reading, segment->at, true),
								 truncate_near(reading, segment->at, false));
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
		take_event(reading, event);
		if (event->other == NULL)
			continue;
		if (event->arrives && segment->stretch != STRETCH_AFTER)
			add_segment(reading, event->other, event->other_ref, STRETCH_BEFORE, event->audit_id, event->xid);
		if (event->leaves)
			add_segment(reading, event->other, event->other_ref, STRETCH_AFTER, event->audit_id, event->xid);
	}
}

/* Read all segments, which may grow while they are read. */
static void
read_segments(Reading *reading)
{
	int			ngroups;
	int32	   *groups = sau_registry_groups(reading->rel->table_id, &ngroups);

	for (int i = 0; i < ngroups; i++)
		reading->leaves = list_concat(reading->leaves, sau_partition_leaves(groups[i]));
	for (int i = 0; i < list_length(reading->segments); i++)
		read_segment(reading, list_nth(reading->segments, i));
	if (reading->n > 1)
		qsort(reading->found, reading->n, sizeof(Found), compare_found);
}

/* ---- showing ---- */

/* Copy a session's columns into a result row; all NULL where the session row is gone. */
static void
put_session(Relation sessions, int64 session_id, Datum *values, bool *nulls)
{
	static const struct
	{
		int			from;
		int			to;
	}			map[] = {
		{SESSION_USER_NAME, CHANGES_SESSION_USER_NAME},
		{SESSION_APPLICATION_NAME, CHANGES_APPLICATION_NAME},
		{SESSION_CLIENT_ADDR, CHANGES_CLIENT_ADDR},
		{SESSION_CONTEXT, CHANGES_CONTEXT},
		{SESSION_ORIGIN, CHANGES_ORIGIN}
	};
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	for (int i = 0; i < lengthof(map); i++)
		nulls[map[i].to] = true;
	ScanKeyInit(&key, 1, BTEqualStrategyNumber, F_INT8EQ, Int64GetDatum(session_id));
	scan = systable_beginscan(sessions, sau_registry_relid("log_sessions_pkey", false), true,
							  GetActiveSnapshot(), 1, &key);
	if (HeapTupleIsValid(tuple = systable_getnext(scan)))
	{
		tuple = heap_copytuple(tuple);
		for (int i = 0; i < lengthof(map); i++)
			values[map[i].to] = heap_getattr(tuple, map[i].from, RelationGetDescr(sessions),
											 &nulls[map[i].to]);
	}
	systable_endscan(scan);
}

static ArrayType *
changed_columns(Jsonb *old_data, Jsonb *new_data)
{
	JsonbIterator *it = JsonbIteratorInit(&new_data->root);
	JsonbValue	key;
	JsonbValue	value;
	JsonbIteratorToken token;
	Datum	   *names = palloc(Max(1, JB_ROOT_COUNT(new_data)) * sizeof(Datum));
	int			n = 0;

	if (!JB_ROOT_IS_OBJECT(new_data) || !JB_ROOT_IS_OBJECT(old_data))
		return construct_empty_array(TEXTOID);
	while ((token = JsonbIteratorNext(&it, &key, true)) != WJB_DONE)
	{
		JsonbValue *before;

		if (token != WJB_KEY)
			continue;
		JsonbIteratorNext(&it, &value, true);
		before = getKeyJsonValueFromContainer(&old_data->root, key.val.string.val,
											  key.val.string.len, NULL);
		if (before == NULL || before->type != value.type ||
			!same_jsonb(JsonbValueToJsonb(before), JsonbValueToJsonb(&value)))
			names[n++] = PointerGetDatum(cstring_to_text_with_len(key.val.string.val,
																  key.val.string.len));
	}
	return construct_array(names, n, TEXTOID, -1, false, TYPALIGN_INT);
}

/* Did the log row have a column that the table has now under this name? */
static bool
had_column(Reading *reading, int64 audit_id, const JsonbValue *name)
{
	for (int i = 0; i < reading->columns->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(reading->columns, i);

		if (!att->attisdropped && audit_id >= reading->column_since[i] && strlen(NameStr(att->attname)) == name->val.string.len &&
			memcmp(NameStr(att->attname), name->val.string.val, name->val.string.len) == 0)
			return true;
	}
	return false;
}

/* An image without what is no column of the table any more, where the reader may not see that. */
static Jsonb *
shown_image(Reading *reading, int64 audit_id, Jsonb *image)
{
	SauJsonbState state = {0};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	name;
	JsonbValue	value;

	if (image == NULL || reading->columns == NULL)
		return image;
	it = JsonbIteratorInit(&image->root);
	sau_compat_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	while (JB_ROOT_IS_OBJECT(image) && (token = JsonbIteratorNext(&it, &name, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		JsonbIteratorNext(&it, &value, true);
		if (!had_column(reading, audit_id, &name))
			continue;
		sau_compat_push_jsonb(&state, WJB_KEY, &name);
		sau_compat_push_jsonb(&state, WJB_VALUE, &value);
	}
	sau_compat_push_jsonb(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(state.result);
}

static void
show_rows(FunctionCallInfo fcinfo, Reading *reading)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	static const Oid types[] = {
		INT8OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, INETOID, INT4OID, INT4OID, JSONBOID, TEXTOID
	};
	Relation	sessions = table_open(sau_registry_relid("log_sessions", false), AccessShareLock);
	char	   *schema_name;
	char	   *table_name;
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "softaudit history row",
											  ALLOCSET_DEFAULT_SIZES);

	sau_registry_check_layout(sessions, types, lengthof(types));
	sau_registry_names(reading->rel->table_id, &schema_name, &table_name);
	for (int i = 0; i < reading->n; i++)
	{
		static const struct
		{
			int			from;
			int			to;
		}			map[] = {
			{SAU_LOG_AUDIT_ID, CHANGES_AUDIT_ID},
			{SAU_LOG_CHANGED_AT, CHANGES_CHANGED_AT},
			{SAU_LOG_XID, CHANGES_XID},
			{SAU_LOG_OPERATION, CHANGES_OPERATION},
			{SAU_LOG_CHANGED_BY, CHANGES_CHANGED_BY},
			{SAU_LOG_PARTITION_NAME, CHANGES_PARTITION_NAME}
		};
		HeapTuple	tuple = reading->found[i].tuple;
		TupleDesc	desc = reading->found[i].desc;
		Datum		values[CHANGES_NATTS] = {0};
		bool		nulls[CHANGES_NATTS] = {false};
		MemoryContext old = MemoryContextSwitchTo(cxt);
		Jsonb	   *old_data = shown_image(reading, reading->found[i].audit_id, get_jsonb(tuple, desc, SAU_LOG_OLD_DATA));
		Jsonb	   *new_data = shown_image(reading, reading->found[i].audit_id, get_jsonb(tuple, desc, SAU_LOG_NEW_DATA));
		Jsonb	   *key;
		Jsonb	   *old_key;

		keys_of_row(reading, tuple, desc, &key, &old_key);
		nulls[CHANGES_ROW_KEY] = key == NULL;
		values[CHANGES_ROW_KEY] = PointerGetDatum(key);
		for (int j = 0; j < lengthof(map); j++)
			values[map[j].to] = heap_getattr(tuple, map[j].from, desc, &nulls[map[j].to]);
		nulls[CHANGES_OLD_DATA] = old_data == NULL;
		values[CHANGES_OLD_DATA] = PointerGetDatum(old_data);
		nulls[CHANGES_NEW_DATA] = new_data == NULL;
		values[CHANGES_NEW_DATA] = PointerGetDatum(new_data);
		values[CHANGES_SCHEMA_NAME] = DirectFunctionCall1(namein, CStringGetDatum(schema_name));
		values[CHANGES_TABLE_NAME] = DirectFunctionCall1(namein, CStringGetDatum(table_name));
		nulls[CHANGES_CHANGED_COLUMNS] = !(old_data && new_data);
		if (old_data && new_data)
			values[CHANGES_CHANGED_COLUMNS] = PointerGetDatum(changed_columns(old_data, new_data));
		put_session(sessions, get_int8(tuple, desc, SAU_LOG_SESSION_ID), values, nulls);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		MemoryContextSwitchTo(old);
		MemoryContextReset(cxt);
	}
	MemoryContextDelete(cxt);
	table_close(sessions, AccessShareLock);
}

static void
init_reading(Reading *reading, SauRel *rel, Jsonb *key, int64 ref, Stretch stretch)
{
	HASHCTL		ctl = {0};

	memset(reading, 0, sizeof(*reading));
	reading->rel = rel;
	reading->image_key = sau_registry_image_key(rel->table_id, &reading->n_image_key);
	reading->key_since = sau_registry_key_since(rel->table_id, InvalidOid, NULL, 0);
	ctl.keysize = sizeof(int64);
	ctl.entrysize = sizeof(int64);
	ctl.hcxt = CurrentMemoryContext;
	reading->seen = hash_create("softaudit history", 64, &ctl, HASH_ELEM | HASH_BLOBS | HASH_CONTEXT);
	add_segment(reading, key, ref, stretch, PG_INT64_MAX, 0);
}

/* sau_registry_key_since() for a table that is open. */
static int64
first_with_key(SauRel *rel, Relation relation)
{
	int			nkeys;
	const AttrNumber *attnums = sau_image_key_attnums(rel, relation, &nkeys);

	return sau_registry_key_since(rel->table_id, RelationGetRelid(relation), attnums, nkeys);
}

PG_FUNCTION_INFO_V1(softaudit_history);

/*
 * softaudit.history(target regclass, key text | anyelement): the changes of one row,
 * oldest first.  Raises insufficient_privilege unless the caller may SELECT every
 * column of the table.
 */
Datum
softaudit_history(PG_FUNCTION_ARGS)
{
	Relation	relation;
	SauRel	   *rel;
	TupleTableSlot *slot;
	Jsonb	   *key;
	bool		visible = true;
	Stretch		stretch = STRETCH_ALL;
	bool		by_columns;
	Reading		reading;

	if (PG_ARGISNULL(0))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the table must not be NULL")));
	InitMaterializedSRF(fcinfo, 0);
	relation = sau_key_open_table(PG_GETARG_OID(0));
	/* Before anything is told of the table. */
	by_columns = check_select(RelationGetRelid(relation));
	rel = sau_registry_describe(relation);
	/* Reading a key and asking row security may run code that lets invalidation in. */
	sau_registry_hold(rel);
	if (rel->rootid != rel->relid && check_select(rel->rootid))
		by_columns = true;
	key = sau_key_as_owner(rel, relation, sau_key_given(fcinfo, 1), &slot);

	if (check_enable_rls(rel->rootid, InvalidOid, true) == RLS_ENABLED ||
		check_enable_rls(rel->relid, InvalidOid, true) == RLS_ENABLED)
	{
		Relation	root = rel->rootid == rel->relid ? relation : table_open(rel->rootid, AccessShareLock);
		SauRel	   *rootrel = root == relation ? rel : sau_registry_describe(root);
		TupleTableSlot *rootslot = slot;

		sau_registry_hold(rootrel);
		if (root != relation)
			(void) sau_key_as_owner(rootrel, root, sau_key_given(fcinfo, 1), &rootslot);
		visible = is_visible_now(rootrel, root, rootslot) && first_with_key(rootrel, root) < PG_INT64_MAX;
		sau_registry_release(rootrel);

		if (root != relation)
		{
			ExecDropSingleTupleTableSlot(rootslot);
			table_close(root, AccessShareLock);
		}
		stretch = STRETCH_NOW;
	}
	if (visible)
	{
		sau_log_flush();
		init_reading(&reading, rel, key, sau_image_key_ref(rel, relation, key), stretch);
		if (rel->rootid == rel->relid)
			reading.key_since = first_with_key(rel, relation);
		reading.is_retyped = sau_registry_key_retyped(rel->table_id);
		if (by_columns)
		{
			reading.columns = RelationGetDescr(relation);
			reading.column_since = sau_registry_column_since(rel->table_id, rel->rootid, relation);
		}
		read_segments(&reading);
		show_rows(fcinfo, &reading);
	}
	ExecDropSingleTupleTableSlot(slot);
	sau_registry_release(rel);
	relation_close(relation, AccessShareLock);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(softaudit_history_of_key);

/*
 * softaudit.history_of_key(table_id integer, row_key jsonb): the same by id and key
 * image, for history_of(); its privileges are those of EXECUTE.
 */
Datum
softaudit_history_of_key(PG_FUNCTION_ARGS)
{
	SauRel		rel = {0};
	Jsonb	   *key = DatumGetJsonbPCopy(PG_GETARG_DATUM(1));
	Reading		reading;

	InitMaterializedSRF(fcinfo, 0);
	rel.table_id = PG_GETARG_INT32(0);
	sau_log_flush();
	init_reading(&reading, &rel, key, ref_of_image(rel.table_id, &key->root), STRETCH_ALL);
	read_segments(&reading);
	show_rows(fcinfo, &reading);
	return (Datum) 0;
}

PG_FUNCTION_INFO_V1(softaudit_changed_columns);

/*
 * softaudit.changed_columns(old_data jsonb, new_data jsonb): the columns in which two
 * images of a row differ; NULL if either is.
 */
Datum
softaudit_changed_columns(PG_FUNCTION_ARGS)
{
	PG_RETURN_ARRAYTYPE_P(changed_columns(PG_GETARG_JSONB_P(0), PG_GETARG_JSONB_P(1)));
}

PG_FUNCTION_INFO_V1(softaudit_key_from_image);

/*
 * softaudit.key_from_image(row_key jsonb, image jsonb, image_key name[]): a log row's
 * key: its own, else made of the image's columns; NULL if it had none.
 */
Datum
softaudit_key_from_image(PG_FUNCTION_ARGS)
{
	Datum	   *elems;
	char	  **names;
	int			n;
	Jsonb	   *key;

	if (!PG_ARGISNULL(0))
		PG_RETURN_DATUM(PG_GETARG_DATUM(0));
	if (PG_ARGISNULL(1) || PG_ARGISNULL(2))
		PG_RETURN_NULL();
	deconstruct_array(PG_GETARG_ARRAYTYPE_P(2), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &elems, NULL, &n);
	names = palloc(Max(n, 1) * sizeof(char *));
	for (int i = 0; i < n; i++)
		names[i] = NameStr(*DatumGetName(elems[i]));
	key = key_from_image(PG_GETARG_JSONB_P(1), names, n);
	if (key == NULL)
		PG_RETURN_NULL();
	PG_RETURN_JSONB_P(key);
}

PG_FUNCTION_INFO_V1(softaudit_row_ref);

/* softaudit.row_ref(table_id integer, key_image jsonb): what the log finds the changes of a row by. */
Datum
softaudit_row_ref(PG_FUNCTION_ARGS)
{
	PG_RETURN_INT64(ref_of_image(PG_GETARG_INT32(0), &PG_GETARG_JSONB_P(1)->root));
}
