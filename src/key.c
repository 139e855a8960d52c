/*
 * key.c
 *		The key that a caller gives, as the image of a key that the log holds.
 *
 * Step of the path: history.c, and the functions in SQL that take a key, have a value of any type;
 * this file reads it as the primary key's columns, as the table's owner, whose types they may be.
 */
#include "postgres.h"

#include "access/relation.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "executor/spi.h"
#include "funcapi.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "softaudit.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/jsonb.h"
#include "utils/lsyscache.h"

/* Open the table that a caller named, which may be gone by now. */
Relation
sau_key_open_table(Oid relid)
{
	Relation	relation = try_relation_open(relid, AccessShareLock);

	if (relation == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation with OID %u does not exist", relid),
				 errhint("It may have been dropped; softaudit.history_of() reads what the log has by name.")));
	return relation;
}

static void
check_key_given(FunctionCallInfo fcinfo, int arg)
{
	if (PG_ARGISNULL(arg))
		ereport(ERROR,
				(errcode(ERRCODE_NULL_VALUE_NOT_ALLOWED),
				 errmsg("the key must not be NULL"),
				 errhint("Give the primary key of one row.")));
}

SauGivenKey
sau_key_given(FunctionCallInfo fcinfo, int arg)
{
	SauGivenKey	given;

	check_key_given(fcinfo, arg);
	given.typid = get_fn_expr_argtype(fcinfo->flinfo, arg);
	given.value = PG_GETARG_DATUM(arg);
	if (!OidIsValid(given.typid))
		ereport(ERROR,
				(errcode(ERRCODE_INDETERMINATE_DATATYPE),
				 errmsg("could not determine the type of the key"),
				 errhint("Cast it to text.")));
	return given;
}

/* The key as text: its own, or the output of whatever type was passed. */
static char *
key_text(SauGivenKey given)
{
	Oid			outfunc;
	bool		isvarlena;

	getTypeOutputInfo(given.typid, &outfunc, &isvarlena);
	return OidOutputFunctionCall(outfunc, given.value);
}

static void
put_key_value(Relation relation, AttrNumber attno, char *text, TupleTableSlot *slot)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(relation), attno - 1);
	int32		typmod = att->atttypmod;
	Oid			base = getBaseTypeAndTypmod(att->atttypid, &typmod);
	Oid			infunc;
	Oid			ioparam;

	/* The base type's: a key that exists satisfies its domain already. */
	getTypeInputInfo(base, &infunc, &ioparam);
	slot->tts_values[attno - 1] = OidInputFunctionCall(infunc, text, ioparam, typmod);
	slot->tts_isnull[attno - 1] = false;
}

/* jsonb_populate_record() for a key: a row of the table with the columns that the object names. */
static HeapTupleHeader
populate_row(Relation relation, Jsonb *object)
{
	TupleDesc	desc = RelationGetDescr(relation);
	Datum	   *values = palloc0(desc->natts * sizeof(Datum));
	bool	   *nulls = palloc(desc->natts * sizeof(bool));
	HeapTuple	tuple;
	Oid			arg_types[2] = {relation->rd_rel->reltype, JSONBOID};
	FuncExpr   *expr = makeFuncExpr(F_JSONB_POPULATE_RECORD, arg_types[0],
									list_make2(makeNullConst(arg_types[0], -1, InvalidOid), makeNullConst(JSONBOID, -1, InvalidOid)),
									InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
	FmgrInfo	flinfo;

	/* with a row to start from, the other columns' domains are not asked */
	memset(nulls, true, desc->natts * sizeof(bool));
	tuple = heap_form_tuple(desc, values, nulls);
	fmgr_info(F_JSONB_POPULATE_RECORD, &flinfo);
	fmgr_info_set_expr((Node *) expr, &flinfo);
	return DatumGetHeapTupleHeader(FunctionCall2(&flinfo, heap_copy_tuple_as_datum(tuple, desc), JsonbPGetDatum(object)));
}

/*
 * Put a column that is written as the log has it: a JSON array or object, for a column of
 * arrays or rows, and any JSON for jsonb.  Returns whether it was.
 */
static bool
put_key_json(Relation relation, AttrNumber attno, Jsonb *object, TupleTableSlot *slot)
{
	Form_pg_attribute att = TupleDescAttr(RelationGetDescr(relation), attno - 1);
	JsonbValue	name;
	JsonbValue *value;

	name.type = jbvString;
	name.val.string.val = NameStr(att->attname);
	name.val.string.len = strlen(NameStr(att->attname));
	value = findJsonbValueFromContainer(&object->root, JB_FOBJECT, &name);
	if (value == NULL || value->type == jbvNull)
		return false;
	if (getBaseType(att->atttypid) == JSONBOID)
		slot->tts_values[attno - 1] = JsonbPGetDatum(JsonbValueToJsonb(value));
	else if (value->type == jbvBinary)
	{
		HeapTupleData tuple;

		tuple.t_data = populate_row(relation, object);
		tuple.t_len = HeapTupleHeaderGetDatumLength(tuple.t_data);
		ItemPointerSetInvalid(&tuple.t_self);
		tuple.t_tableOid = InvalidOid;
		slot->tts_values[attno - 1] = heap_getattr(&tuple, attno, RelationGetDescr(relation), &slot->tts_isnull[attno - 1]);
		return !slot->tts_isnull[attno - 1];
	}
	else
		return false;
	slot->tts_isnull[attno - 1] = false;
	return true;
}

/*
 * Read a key as the user writes it into a slot: one column by its input function, a
 * composite key from a JSON object that names each of its columns once.
 */
static TupleTableSlot *
parse_key(SauRel *rel, Relation relation, SauGivenKey given)
{
	TupleTableSlot *slot = MakeSingleTupleTableSlot(RelationGetDescr(relation), &TTSOpsVirtual);
	int			nkeys;
	const AttrNumber *attnums;

	if (!sau_image_has_key(rel, relation))
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has no primary key that the log holds",
						RelationGetRelationName(relation)),
				 errhint("Read its changes from softaudit.changes instead.")));
	attnums = sau_image_key_attnums(rel, relation, &nkeys);
	ExecClearTuple(slot);
	memset(slot->tts_isnull, true, RelationGetNumberOfAttributes(relation) * sizeof(bool));
	if (nkeys == 1)
	{
		Oid			keytype = TupleDescAttr(RelationGetDescr(relation), attnums[0] - 1)->atttypid;

		if (getBaseType(keytype) == getBaseType(given.typid))
		{
			slot->tts_values[attnums[0] - 1] = given.value;
			slot->tts_isnull[attnums[0] - 1] = false;
		}
		else if (given.typid == TEXTOID)
			put_key_value(relation, attnums[0], key_text(given), slot);
		else
		{
			/* not through text under settings of the caller that may not round-trip */
			int			level = sau_pins_set_all();

			put_key_value(relation, attnums[0], key_text(given), slot);
			sau_pins_reset(level);
		}
	}
	else
	{
		Jsonb	   *object = NULL;
		char	   *json = key_text(given);
		const char *p = json;

		while (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')
			p++;
		if (*p == '{')
			object = DatumGetJsonbP(DirectFunctionCall1(jsonb_in, CStringGetDatum(json)));
		if (object == NULL || JB_ROOT_COUNT(object) != nkeys)
			ereport(ERROR,
					(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
					 errmsg("the key of \"%s\" has %d columns", RelationGetRelationName(relation), nkeys),
					 errhint("Give it as a JSON object that names each key column, for example {\"%s\": 1, \"%s\": 2}.",
							 NameStr(TupleDescAttr(RelationGetDescr(relation), attnums[0] - 1)->attname),
							 NameStr(TupleDescAttr(RelationGetDescr(relation), attnums[1] - 1)->attname))));
		for (int i = 0; i < nkeys; i++)
		{
			char	   *name = NameStr(TupleDescAttr(RelationGetDescr(relation), attnums[i] - 1)->attname);
			LOCAL_FCINFO(call, 2);
			Datum		value;

			if (put_key_json(relation, attnums[i], object, slot))
				continue;
			InitFunctionCallInfoData(*call, NULL, 2, InvalidOid, NULL, NULL);
			call->args[0].value = JsonbPGetDatum(object);
			call->args[0].isnull = false;
			call->args[1].value = CStringGetTextDatum(name);
			call->args[1].isnull = false;
			value = jsonb_object_field_text(call);
			if (call->isnull)
				ereport(ERROR,
						(errcode(ERRCODE_INVALID_PARAMETER_VALUE),
						 errmsg("the key does not name column \"%s\", or has NULL for it", name),
						 errhint("Give every column of the primary key a value.")));
			put_key_value(relation, attnums[i], TextDatumGetCString(value), slot);
		}
	}
	ExecStoreVirtualTuple(slot);
	return slot;
}

static Jsonb *
key_image(SauRel *rel, Relation relation, TupleTableSlot *slot)
{
	SauBuf		buf = {CurrentMemoryContext, NULL, 0, 0};

	sau_image_key(rel, relation, slot, &buf);
	return (Jsonb *) buf.data;
}

/*
 * Read the key and make its image as the table's owner: the types of the key's columns
 * may bring functions of his along (checks of domains, casts to json), which must not
 * run with the rights of whoever asks, let alone of the log's owner.
 */
Jsonb *
sau_key_as_owner(SauRel *rel, Relation relation, SauGivenKey given, TupleTableSlot **slot)
{
	Oid			save_user;
	int			save_context;
	int			level;
	Jsonb	   *image;

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(relation->rd_rel->relowner, save_context | SECURITY_RESTRICTED_OPERATION);
	level = NewGUCNestLevel();
	*slot = parse_key(rel, relation, given);
	image = key_image(rel, relation, *slot);
	AtEOXact_GUC(false, level);
	SetUserIdAndSecContext(save_user, save_context);
	return image;
}

PG_FUNCTION_INFO_V1(softaudit_key_image);

/*
 * softaudit.key_image(target regclass, key text): the key as the log holds it.
 */
Datum
softaudit_key_image(PG_FUNCTION_ARGS)
{
	Relation	relation = sau_key_open_table(PG_GETARG_OID(0));
	SauRel	   *rel = sau_registry_describe(relation);
	TupleTableSlot *slot;
	Jsonb	   *key;

	sau_registry_hold(rel);
	key = sau_key_as_owner(rel, relation, sau_key_given(fcinfo, 1), &slot);
	sau_registry_release(rel);
	ExecDropSingleTupleTableSlot(slot);
	relation_close(relation, AccessShareLock);
	PG_RETURN_JSONB_P(key);
}
