/*
 * entry.c
 *		What softaudit.registry says of a table, for who reads the log.
 *
 * The newest committed row counts, whatever the transaction's snapshot.  A table that was dropped
 * still has its row.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xlog.h"
#include "catalog/pg_type.h"
#include "miscadmin.h"
#include "softaudit.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/snapmgr.h"

/*
 * What tells a table from its copy in another database: in a restored one the numbers
 * of columns may be others.  OIDs alone may come out the same there.
 */
char *
sau_entry_identity(Oid relid)
{
	return psprintf("%u@%u/" UINT64_FORMAT, relid, MyDatabaseId, GetSystemIdentifier());
}

/*
 * Fetch a row of softaudit.registry by its id, or by its relation where table_id is
 * zero.  The newest committed row counts, whatever the transaction's snapshot: the
 * trigger that fired is as new.  The result is a copy, or NULL.
 */
HeapTuple
sau_entry_row(int32 table_id, Oid relid, TupleDesc *desc)
{
	static const Oid types[] = {
		INT4OID, REGCLASSOID, INT4OID, NAMEOID, NAMEOID, NAMEARRAYOID, NAMEARRAYOID, INT4ARRAYOID, NAMEARRAYOID,
		NAMEARRAYOID, INT8OID, TEXTARRAYOID, INT8OID, BOOLOID, TEXTARRAYOID
	};
	Relation	registry = table_open(sau_objects_relid("registry", false), AccessShareLock);
	Oid			index = sau_objects_relid(table_id != 0 ? "registry_pkey" : "registry_relation_key", false);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	sau_objects_check_layout(registry, types, lengthof(types));
	if (table_id != 0)
		ScanKeyInit(&key, REGISTRY_TABLE_ID, BTEqualStrategyNumber, F_INT4EQ,
					Int32GetDatum(table_id));
	else
		ScanKeyInit(&key, REGISTRY_RELATION, BTEqualStrategyNumber, F_OIDEQ,
					ObjectIdGetDatum(relid));
	scan = systable_beginscan(registry, index, true, snapshot, 1, &key);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		tuple = heap_copytuple(tuple);
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	*desc = CreateTupleDescCopy(RelationGetDescr(registry));
	table_close(registry, AccessShareLock);
	return tuple;
}

/* A name[] of a registry row, in the current memory context. */
char **
sau_entry_names_at(HeapTuple tuple, TupleDesc desc, int attno, int *n)
{
	bool		isnull;
	Datum		d = heap_getattr(tuple, attno, desc, &isnull);
	Datum	   *elems;
	char	  **names;

	*n = 0;
	if (isnull)
		return NULL;
	deconstruct_array(DatumGetArrayTypeP(d), NAMEOID, NAMEDATALEN, false, TYPALIGN_CHAR, &elems, NULL, n);
	names = palloc(Max(*n, 1) * sizeof(char *));
	for (int i = 0; i < *n; i++)
		names[i] = pstrdup(NameStr(*DatumGetName(elems[i])));
	return names;
}

/* The columns that a log row's key is made of where it does not say so itself. */
char **
sau_entry_image_key(int32 table_id, int *n)
{
	TupleDesc	desc;
	HeapTuple	tuple = sau_entry_row(table_id, InvalidOid, &desc);

	*n = 0;
	return HeapTupleIsValid(tuple) ? sau_entry_names_at(tuple, desc, REGISTRY_IMAGE_KEY, n) : NULL;
}

/* The primary key's columns in the order of its index, as they are now or were last. */
char **
sau_entry_key_columns(int32 table_id, int *n)
{
	TupleDesc	desc;
	HeapTuple	tuple = sau_entry_row(table_id, InvalidOid, &desc);

	*n = 0;
	return HeapTupleIsValid(tuple) ? sau_entry_names_at(tuple, desc, REGISTRY_KEY_COLUMNS, n) : NULL;
}

/*
 * The first log row whose key may be of the columns that the table's key is of now; the
 * largest number if that is not known, since nobody followed how the key came about.
 */
int64
sau_entry_key_since(int32 table_id, Oid relid, const AttrNumber *attnums, int nkeys)
{
	TupleDesc	desc;
	HeapTuple	tuple = sau_entry_row(table_id, InvalidOid, &desc);
	bool		isnull;
	int64		since;
	Datum		d;
	Datum	   *args;
	int			n;

	if (!HeapTupleIsValid(tuple))
		return 0;
	since = DatumGetInt64(heap_getattr(tuple, REGISTRY_KEY_SINCE, desc, &isnull));
	d = heap_getattr(tuple, REGISTRY_KEY_ARGS, desc, &isnull);
	deconstruct_array(DatumGetArrayTypeP(d), TEXTOID, -1, false, TYPALIGN_INT, &args, NULL, &n);
	/* restored: names are right there, and whoever changes one has the numbers set right first */
	if (nkeys == 0 || n == 0 || strcmp(TextDatumGetCString(args[0]), sau_entry_identity(relid)) != 0)
		return since;
	for (int i = 0; i < nkeys; i++)
	{
		bool		known = false;

		for (int j = 1; j < n; j++)
			known = known || atoi(TextDatumGetCString(args[j])) == attnums[i];
		if (!known || n - 1 != nkeys)
			return PG_INT64_MAX;
	}
	return since;
}

/* Were the columns of the table's key of other types once? */
bool
sau_entry_key_retyped(int32 table_id)
{
	TupleDesc	desc;
	HeapTuple	tuple = sau_entry_row(table_id, InvalidOid, &desc);
	bool		isnull;

	return HeapTupleIsValid(tuple) && DatumGetBool(heap_getattr(tuple, REGISTRY_KEY_RETYPED, desc, &isnull));
}

/*
 * The first log row whose image may have a column of this relation under the name that it
 * has now, by attnum - 1; the largest number if that is not known.  The relation is the
 * enabled table, or a part of it.
 */
int64 *
sau_entry_column_since(int32 table_id, Oid rootid, Relation relation)
{
	TupleDesc	columns = RelationGetDescr(relation);
	int64	   *since = palloc0(Max(columns->natts, 1) * sizeof(int64));
	TupleDesc	desc;
	HeapTuple	tuple = sau_entry_row(table_id, InvalidOid, &desc);
	bool		isnull;
	bool		by_number;
	Datum	   *args;
	int			n;

	if (!HeapTupleIsValid(tuple))
		return since;
	deconstruct_array(DatumGetArrayTypeP(heap_getattr(tuple, REGISTRY_COLUMN_SINCE, desc, &isnull)),
					  TEXTOID, -1, false, TYPALIGN_INT, &args, NULL, &n);
	if (n == 0)
		return since;
	by_number = rootid == RelationGetRelid(relation) &&
		strcmp(TextDatumGetCString(args[0]), sau_entry_identity(rootid)) == 0;
	for (int i = 0; i < columns->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(columns, i);

		since[i] = PG_INT64_MAX;
		for (int j = 1; j < n; j++)
		{
			char	   *rest;
			long		attnum = strtol(TextDatumGetCString(args[j]), &rest, 10);
			int64		first = strtoll(rest + 1, &rest, 10);

			if (strcmp(rest + 1, NameStr(att->attname)) == 0 && (!by_number || attnum == att->attnum))
				since[i] = first;
		}
	}
	return since;
}

/* The log groups that a table's changes may be in. */
int32 *
sau_entry_groups(int32 table_id, int *ngroups)
{
	TupleDesc	desc;
	HeapTuple	tuple = sau_entry_row(table_id, InvalidOid, &desc);
	int32	   *groups = NULL;

	*ngroups = 0;
	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		d = heap_getattr(tuple, REGISTRY_ALL_GROUPS, desc, &isnull);

		if (!isnull)
		{
			Datum	   *elems;

			deconstruct_array(DatumGetArrayTypeP(d), INT4OID, sizeof(int32), true, TYPALIGN_INT,
							  &elems, NULL, ngroups);
			groups = palloc(Max(*ngroups, 1) * sizeof(int32));
			for (int i = 0; i < *ngroups; i++)
				groups[i] = DatumGetInt32(elems[i]);
		}
	}
	return groups;
}

/* The name that a table has, or had when it was dropped. */
void
sau_entry_names(int32 table_id, char **schema_name, char **table_name)
{
	TupleDesc	desc;
	HeapTuple	tuple = sau_entry_row(table_id, InvalidOid, &desc);
	bool		isnull;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "table id %d is not in softaudit.registry", table_id);
	*schema_name = pstrdup(NameStr(*DatumGetName(heap_getattr(tuple, REGISTRY_SCHEMA_NAME, desc, &isnull))));
	*table_name = pstrdup(NameStr(*DatumGetName(heap_getattr(tuple, REGISTRY_TABLE_NAME, desc, &isnull))));
}
