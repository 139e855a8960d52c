/*
 * partition.c
 *		Which leaf of the log takes a row.
 *
 * Step of the path: a batch of log rows of one log group and one changed_at is
 * ready; this file names the leaf, and opens it with the writer's lock.
 *
 * The log is partitioned by LIST of log_group, each group by RANGE of changed_at
 * with a DEFAULT leaf.  A writer never locks the parents beyond the moment of
 * looking: a route is remembered with the range of time it holds for, and any
 * relcache invalidation of the group's table or of the leaf ends it.  The leaf is
 * locked first and the route looked at again after, so a leaf that was detached or
 * split meanwhile is never written to.
 *
 * Lock order: group's table (AccessShare, released at once), then leaf
 * (RowExclusive, to the end of the transaction), then its indexes.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "catalog/index.h"
#include "catalog/partition.h"
#include "catalog/pg_am.h"
#include "catalog/pg_type.h"
#include "partitioning/partbounds.h"
#include "partitioning/partdesc.h"
#include "softaudit.h"
#include "storage/lmgr.h"
#include "storage/sinval.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/partcache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

typedef struct Route
{
	int32		log_group;		/* hash key */
	bool		valid;
	Oid			parent;			/* softaudit.log_g<n> */
	TimestampTz lower;			/* the route holds for lower <= changed_at < upper */
	TimestampTz upper;
	bool		leaf_known;
	SauLeaf		leaf;
} Route;

static HTAB *routes = NULL;

/* The last layout that was checked, so that each leaf is checked once. */
static Oid	checked_leaf = InvalidOid;

static void
relcache_callback(Datum arg, Oid relid)
{
	HASH_SEQ_STATUS seq;
	Route	   *route;

	if (!OidIsValid(relid) || relid == checked_leaf)
		checked_leaf = InvalidOid;
	if (routes == NULL)
		return;
	hash_seq_init(&seq, routes);
	while ((route = hash_seq_search(&seq)) != NULL)
		if (!OidIsValid(relid) || route->parent == relid || route->leaf.relid == relid)
			route->valid = false;
}

/* Register the invalidation callback; called once when the library is loaded. */
void
sau_partition_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
}

/* The partitioned table of a log group; raises undefined_table if there is none. */
static Oid
group_relid(int32 log_group)
{
	char		name[NAMEDATALEN];
	Oid			relid;

	snprintf(name, sizeof(name), "log_g%d", log_group);
	relid = get_relname_relid(name, sau_objects_schema(false));
	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("log table \"%s.%s\" does not exist", SAU_SCHEMA, name),
				 errhint("Call softaudit.enable() for the table again to have it made.")));
	return relid;
}

/* Find the leaf for a time, and the range of time for which it is the answer. */
static void
look_up(Route *route, TimestampTz changed_at)
{
	Relation	parent;
	PartitionKey key;
	PartitionDesc desc;
	PartitionBoundInfo bound;
	Datum		value = TimestampTzGetDatum(changed_at);
	bool		is_equal;
	TimestampTz lower = DT_NOBEGIN;
	TimestampTz upper = DT_NOEND;
	int			off;
	int			part;

	/* holds for no time, should an error end this */
	route->lower = DT_NOEND;
	route->upper = DT_NOBEGIN;
	route->parent = group_relid(route->log_group);
	parent = table_open(route->parent, AccessShareLock);
	if (parent->rd_rel->relkind != RELKIND_PARTITIONED_TABLE)
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("\"%s\" is not a partitioned table", RelationGetRelationName(parent))));
	key = RelationGetPartitionKey(parent);
	desc = RelationGetPartitionDesc(parent, true);
	bound = desc->boundinfo;
	part = -1;
	if (desc->nparts > 0)
	{
		off = partition_range_datum_bsearch(key->partsupfunc, key->partcollation,
											bound, 1, &value, &is_equal);
		part = bound->indexes[off + 1];
		if (off >= 0 && bound->kind[off][0] == PARTITION_RANGE_DATUM_VALUE)
			lower = DatumGetTimestampTz(bound->datums[off][0]);
		if (off + 1 < bound->ndatums && bound->kind[off + 1][0] == PARTITION_RANGE_DATUM_VALUE)
			upper = DatumGetTimestampTz(bound->datums[off + 1][0]);
		if (part < 0)
			part = bound->default_index;
	}
	if (part < 0)
		ereport(ERROR,
				(errcode(ERRCODE_CHECK_VIOLATION),
				 errmsg("log table \"%s\" has no partition for %s and no default partition",
						RelationGetRelationName(parent), timestamptz_to_str(changed_at)),
				 errhint("Run CALL softaudit.maintain() to have the default partition made again.")));
	route->leaf.relid = desc->oids[part];
	route->leaf_known = false;
	route->lower = lower;
	route->upper = upper;
	table_close(parent, AccessShareLock);
}

static bool
is_btree(Oid indexid)
{
	HeapTuple	tuple = SearchSysCache1(RELOID, ObjectIdGetDatum(indexid));
	bool		result = false;

	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_class) GETSTRUCT(tuple))->relam == BTREE_AM_OID;
		ReleaseSysCache(tuple);
	}
	return result;
}

/*
 * Note which indexes a leaf has.  The two of ours are told by their columns, not
 * by name; anything else is left to the executor's general code.
 */
void
sau_partition_leaf_indexes(Relation leaf, SauLeaf *info)
{
	List	   *indexes = RelationGetIndexList(leaf);
	ListCell   *lc;

	info->relid = RelationGetRelid(leaf);
	info->key_index = info->old_key_index = InvalidOid;
	info->has_other_indexes = false;
	foreach(lc, indexes)
	{
		HeapTuple	tuple = SearchSysCache1(INDEXRELID, ObjectIdGetDatum(lfirst_oid(lc)));
		Form_pg_index form;
		bool		ours;

		if (!HeapTupleIsValid(tuple))
			continue;
		form = (Form_pg_index) GETSTRUCT(tuple);
		ours = form->indnatts == 1 && form->indisvalid && !form->indisunique &&
			heap_attisnull(tuple, Anum_pg_index_indexprs, NULL) &&
			is_btree(lfirst_oid(lc));
		if (ours && form->indkey.values[0] == SAU_LOG_ROW_REF &&
			heap_attisnull(tuple, Anum_pg_index_indpred, NULL) &&
			!OidIsValid(info->key_index))
			info->key_index = lfirst_oid(lc);
		else if (ours && form->indkey.values[0] == SAU_LOG_OLD_ROW_REF &&
				 !heap_attisnull(tuple, Anum_pg_index_indpred, NULL) &&
				 !OidIsValid(info->old_key_index))
			info->old_key_index = lfirst_oid(lc);
		else
			info->has_other_indexes = true;
		ReleaseSysCache(tuple);
	}
	list_free(indexes);
}

/* Refuse a leaf whose columns are not what the log writer lays down. */
static void
check_layout(Relation leaf)
{
	static const Oid types[SAU_LOG_NATTS] = {
		INT8OID, TIMESTAMPTZOID, XID8OID, INT8OID, INT8OID, INT2OID, TEXTOID, TEXTOID,
		JSONBOID, JSONBOID, JSONBOID, INT8OID, JSONBOID, TEXTOID, BYTEAOID
	};

	sau_objects_check_layout(leaf, types, lengthof(types));
	checked_leaf = RelationGetRelid(leaf);
}

/*
 * Open the leaf that takes rows of this log group and time, with RowExclusiveLock;
 * the caller closes it and keeps the lock.  Where no partition covers the time, that
 * is the DEFAULT leaf.
 */
Relation
sau_partition_open(int32 log_group, TimestampTz changed_at, SauLeaf *leaf)
{
	Route	   *route;
	bool		found;

	if (routes == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(int32);
		ctl.entrysize = sizeof(Route);
		routes = hash_create("softaudit log routes", 16, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	route = hash_search(routes, &log_group, HASH_ENTER, &found);
	if (!found)
	{
		route->valid = false;
		route->parent = route->leaf.relid = InvalidOid;
	}

	for (;;)
	{
		Relation	rel;

		/*
		 * As RangeVarGetRelidExtended() does it: what matters is whether messages came
		 * in meanwhile.  The flag alone would never settle in a server that throws its
		 * caches away at every chance (debug_discard_caches).
		 */
		uint64		messages = SharedInvalidMessageCounter;

		CHECK_FOR_INTERRUPTS();
		if (!route->valid || changed_at < route->lower || changed_at >= route->upper)
		{
			/* before the look-up: an invalidation amid it counts */
			route->valid = true;
			look_up(route, changed_at);
		}
		rel = try_table_open(route->leaf.relid, RowExclusiveLock);
		if (rel == NULL)
		{
			route->valid = false;
			continue;
		}
		if (!route->leaf_known)
		{
			sau_partition_leaf_indexes(rel, &route->leaf);
			route->leaf_known = true;
		}
		if (route->valid || messages == SharedInvalidMessageCounter)
		{
			if (RelationGetRelid(rel) != checked_leaf)
				check_layout(rel);
			*leaf = route->leaf;
			return rel;
		}
		table_close(rel, RowExclusiveLock);
	}
}

/*
 * The OIDs of a group's leaves, for readers; empty where the group has no table.
 * The caller locks each and must expect one to be gone.
 */
List *
sau_partition_leaves(int32 log_group)
{
	char		name[NAMEDATALEN];
	Oid			relid;
	Relation	parent;
	PartitionDesc desc;
	List	   *leaves = NIL;

	snprintf(name, sizeof(name), "log_g%d", log_group);
	relid = get_relname_relid(name, sau_objects_schema(false));
	if (!OidIsValid(relid))
		return NIL;
	parent = try_table_open(relid, AccessShareLock);
	if (parent == NULL)
		return NIL;
	desc = RelationGetPartitionDesc(parent, false);
	for (int i = 0; i < desc->nparts; i++)
		leaves = lappend_oid(leaves, desc->oids[i]);
	table_close(parent, AccessShareLock);
	return leaves;
}
