/*
 * history.c
 *		A row's history: who may see it, and of which columns.
 *
 * The way back: a key as the user writes it becomes the key image that capture
 * would have logged (key.c); trail.c reads the log rows; here they become rows of
 * softaudit.changes.
 *
 * Who may see: whoever may SELECT all columns of the table.  Who may by grants on the
 * columns alone sees of the images those columns; one that was dropped, and had the name
 * of one that is there now perhaps, was never granted to him.  Where row security applies
 * to him, the row must be visible to him now.  When in doubt, nothing.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/relation.h"
#include "access/table.h"
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

/* The columns that images are shown of. */
typedef struct Shown
{
	TupleDesc	columns;		/* NULL for all that an image holds */
	int64	   *since;			/* from which log row on, by attnum - 1 */
} Shown;

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
	scan = systable_beginscan(sessions, sau_objects_relid("log_sessions_pkey", false), true,
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

static bool
same_jsonb(Jsonb *a, Jsonb *b)
{
	return VARSIZE(a) == VARSIZE(b) && memcmp(a, b, VARSIZE(a)) == 0;
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
had_column(const Shown *shown, int64 audit_id, const JsonbValue *name)
{
	for (int i = 0; i < shown->columns->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(shown->columns, i);

		if (!att->attisdropped && audit_id >= shown->since[i] && strlen(NameStr(att->attname)) == name->val.string.len &&
			memcmp(NameStr(att->attname), name->val.string.val, name->val.string.len) == 0)
			return true;
	}
	return false;
}

/* An image without what is no column of the table any more, where the reader may not see that. */
static Jsonb *
shown_image(const Shown *shown, int64 audit_id, Jsonb *image)
{
	SauJsonbState state = {0};
	JsonbIterator *it;
	JsonbIteratorToken token;
	JsonbValue	name;
	JsonbValue	value;

	if (image == NULL || shown->columns == NULL)
		return image;
	it = JsonbIteratorInit(&image->root);
	sau_compat_push_jsonb(&state, WJB_BEGIN_OBJECT, NULL);
	while (JB_ROOT_IS_OBJECT(image) && (token = JsonbIteratorNext(&it, &name, true)) != WJB_DONE)
	{
		if (token != WJB_KEY)
			continue;
		JsonbIteratorNext(&it, &value, true);
		if (!had_column(shown, audit_id, &name))
			continue;
		sau_compat_push_jsonb(&state, WJB_KEY, &name);
		sau_compat_push_jsonb(&state, WJB_VALUE, &value);
	}
	sau_compat_push_jsonb(&state, WJB_END_OBJECT, NULL);
	return JsonbValueToJsonb(state.result);
}

static void
show_rows(FunctionCallInfo fcinfo, int32 table_id, SauTrail *trail, const Shown *shown)
{
	ReturnSetInfo *rsinfo = (ReturnSetInfo *) fcinfo->resultinfo;
	static const Oid types[] = {
		INT8OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, INETOID, INT4OID, INT4OID, JSONBOID, TEXTOID
	};
	Relation	sessions = table_open(sau_objects_relid("log_sessions", false), AccessShareLock);
	int			n;
	SauTrailRow *rows = sau_trail_rows(trail, &n);
	char	   *schema_name;
	char	   *table_name;
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "softaudit history row",
											  ALLOCSET_DEFAULT_SIZES);

	sau_objects_check_layout(sessions, types, lengthof(types));
	sau_entry_names(table_id, &schema_name, &table_name);
	for (int i = 0; i < n; i++)
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
		HeapTuple	tuple = rows[i].tuple;
		TupleDesc	desc = rows[i].desc;
		Datum		values[CHANGES_NATTS] = {0};
		bool		nulls[CHANGES_NATTS] = {false};
		MemoryContext old = MemoryContextSwitchTo(cxt);
		Jsonb	   *old_data = shown_image(shown, rows[i].audit_id, sau_trail_jsonb(tuple, desc, SAU_LOG_OLD_DATA));
		Jsonb	   *new_data = shown_image(shown, rows[i].audit_id, sau_trail_jsonb(tuple, desc, SAU_LOG_NEW_DATA));
		Jsonb	   *key = sau_trail_key(trail, &rows[i]);

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
		put_session(sessions, sau_trail_int8(tuple, desc, SAU_LOG_SESSION_ID), values, nulls);
		tuplestore_putvalues(rsinfo->setResult, rsinfo->setDesc, values, nulls);
		MemoryContextSwitchTo(old);
		MemoryContextReset(cxt);
	}
	MemoryContextDelete(cxt);
	table_close(sessions, AccessShareLock);
}

/* sau_entry_key_since() for a table that is open. */
static int64
first_with_key(SauRel *rel, Relation relation)
{
	int			nkeys;
	const AttrNumber *attnums = sau_image_key_attnums(rel, relation, &nkeys);

	return sau_entry_key_since(rel->table_id, RelationGetRelid(relation), attnums, nkeys);
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
	bool		only_now = false;
	bool		by_columns;
	Shown		shown = {0};

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
		only_now = true;
	}
	if (visible)
	{
		sau_log_flush();
		if (by_columns)
		{
			shown.columns = RelationGetDescr(relation);
			shown.since = sau_entry_column_since(rel->table_id, rel->rootid, relation);
		}
		show_rows(fcinfo, rel->table_id,
				  sau_trail_read(rel, key, sau_image_key_ref(rel, relation, key), only_now,
								 rel->rootid == rel->relid ? first_with_key(rel, relation) :
								 sau_entry_key_since(rel->table_id, InvalidOid, NULL, 0),
								 sau_entry_key_retyped(rel->table_id)),
				  &shown);
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
	Shown		shown = {0};

	InitMaterializedSRF(fcinfo, 0);
	rel.table_id = PG_GETARG_INT32(0);
	sau_log_flush();
	show_rows(fcinfo, rel.table_id,
			  sau_trail_read(&rel, key, sau_keyform_ref(rel.table_id, &key->root), false,
							 sau_entry_key_since(rel.table_id, InvalidOid, NULL, 0), false),
			  &shown);
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
