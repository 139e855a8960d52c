/*
 * ancestors.c
 *		What a partition is a part of.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_inherits.h"
#include "catalog/pg_type.h"
#include "fmgr.h"
#include "softaudit.h"
#include "utils/array.h"
#include "utils/fmgroids.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"

/* The parent of a partition; InvalidOid if it was detached just now. */
static Oid
parent_of(Oid relid)
{
	Relation	inherits = table_open(InheritsRelationId, AccessShareLock);
	ScanKeyData keys[2];
	SysScanDesc scan;
	HeapTuple	tuple;
	Oid			parent = InvalidOid;

	ScanKeyInit(&keys[0], Anum_pg_inherits_inhrelid, BTEqualStrategyNumber, F_OIDEQ, ObjectIdGetDatum(relid));
	ScanKeyInit(&keys[1], Anum_pg_inherits_inhseqno, BTEqualStrategyNumber, F_INT4EQ, Int32GetDatum(1));
	scan = systable_beginscan(inherits, InheritsRelidSeqnoIndexId, true, NULL, 2, keys);
	tuple = systable_getnext(scan);
	if (HeapTupleIsValid(tuple))
		parent = ((Form_pg_inherits) GETSTRUCT(tuple))->inhparent;
	systable_endscan(scan);
	table_close(inherits, AccessShareLock);
	return parent;
}

/*
 * What a partition is a part of, the nearest first; none of another relation.  Unlike
 * get_partition_ancestors() beyond a DETACH CONCURRENTLY that has not been finished, too: until then
 * the partition has the triggers of the whole, and those go by the whole.
 */
List *
sau_ancestors_of(Oid relid)
{
	List	   *result = NIL;

	while (get_rel_relispartition(relid) && OidIsValid(relid = parent_of(relid)))
		result = lappend_oid(result, relid);
	return result;
}

PG_FUNCTION_INFO_V1(softaudit_ancestors);

/* softaudit.ancestors(relation oid) -> oid[]: a relation and what it is a part of, the nearest first. */
Datum
softaudit_ancestors(PG_FUNCTION_ARGS)
{
	List	   *list = lcons_oid(PG_GETARG_OID(0), sau_ancestors_of(PG_GETARG_OID(0)));
	Datum	   *values = palloc(list_length(list) * sizeof(Datum));
	int			n = 0;
	ListCell   *lc;

	foreach(lc, list)
		values[n++] = ObjectIdGetDatum(lfirst_oid(lc));
	PG_RETURN_ARRAYTYPE_P(construct_array(values, n, OIDOID, sizeof(Oid), true, TYPALIGN_INT));
}
