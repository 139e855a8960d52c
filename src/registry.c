/*
 * registry.c
 *		What is captured, and how: read from a relation's trigger, kept per backend.
 *
 * Step of the path: a row trigger fired; this file says under which settings.
 *
 * The catalog is the truth.  A capture trigger carries its table's settings as
 * arguments; softaudit.registry is read once for each description, to learn the
 * table's log group and that the arguments are this table's own.
 *
 * A description (SauRel) lives in a memory context of its own.  Invalidation
 * callbacks only clear "valid"; the next sau_registry_get() builds a new one and
 * enters it when it is complete.  A description that a capture further out on
 * the stack still holds (in_use) is let go, and freed by that capture's end.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "catalog/pg_trigger.h"
#include "catalog/pg_type.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "softaudit.h"
#include "utils/array.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

/* Columns of softaudit.registry that are read here, as the SQL script declares them. */
#define REGISTRY_TABLE_ID		1
#define REGISTRY_RELATION		2
#define REGISTRY_LOG_GROUP		3
#define REGISTRY_SCHEMA_NAME	4
#define REGISTRY_TABLE_NAME		5
#define REGISTRY_EXCLUDE		6
#define REGISTRY_REDACT			7
#define REGISTRY_ALL_GROUPS		8	/* log groups that the table's changes were ever written to */
#define REGISTRY_IMAGE_KEY		9	/* columns that make the key of a log row without row_key */
#define REGISTRY_KEY_COLUMNS	10
#define REGISTRY_KEY_SINCE		11
#define REGISTRY_KEY_ARGS		12	/* of the key columns: identity, then number, ':', name */
#define REGISTRY_KEY_RETYPED	14
#define REGISTRY_COLUMN_SINCE	15	/* identity, then number, ':', log row, ':', name */

/* Arguments of the capture trigger, as setup's SQL writes them. */
#define ARG_TABLE_ID	0
#define ARG_IDENTITY	1		/* sau_registry_identity() of the table that was enabled */
#define ARG_IMAGES		2
#define ARG_COLUMNS		3		/* and all that follow: flags, attnum, ':', name */

typedef struct RelSlot
{
	Oid			relid;			/* hash key */
	SauRel	   *rel;
} RelSlot;

/* OIDs of our own relations, by name; forgotten on any invalidation that may concern them. */
typedef struct NamedRel
{
	const char *name;
	Oid			relid;
} NamedRel;

#define SWEEP_AT_LEAST	256

static HTAB *rel_table = NULL;
static long sweep_at = SWEEP_AT_LEAST;
static int	n_held = 0;
static SauRel *orphans = NULL;	/* replaced while in use, not yet released */
static RelSlot *last_slot = NULL;
static Oid	schema_oid = InvalidOid;
static NamedRel named_rels[16];
static int	n_named_rels = 0;

/* Depth of our own functions that may touch the log; see sau_registry_enter_internal(). */
static int	internal_depth = 0;

static void
relcache_callback(Datum arg, Oid relid)
{
	if (rel_table)
	{
		if (OidIsValid(relid))
		{
			RelSlot    *slot = hash_search(rel_table, &relid, HASH_FIND, NULL);

			if (slot)
				slot->rel->valid = false;
		}
		else
		{
			HASH_SEQ_STATUS seq;
			RelSlot    *slot;

			hash_seq_init(&seq, rel_table);
			while ((slot = hash_seq_search(&seq)) != NULL)
				slot->rel->valid = false;
		}
	}
	for (int i = 0; i < n_named_rels; i++)
		if (!OidIsValid(relid) || named_rels[i].relid == relid)
			named_rels[i].relid = InvalidOid;
}

/* A cast to json, a type or a schema changed: what images and names rest on. */
static void
syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	relcache_callback((Datum) 0, InvalidOid);
	schema_oid = InvalidOid;
}

/* Register the invalidation callbacks; called once when the library is loaded. */
void
sau_registry_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(CASTSOURCETARGET, syscache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, syscache_callback, (Datum) 0);
}

/* The OID of our schema. */
Oid
sau_registry_schema(bool missing_ok)
{
	if (!OidIsValid(schema_oid))
		schema_oid = get_namespace_oid(SAU_SCHEMA, missing_ok);
	return schema_oid;
}

/*
 * The OID of one of our relations.  "name" must be a constant: it is kept.
 * Raises undefined_table unless missing_ok.
 */
Oid
sau_registry_relid(const char *name, bool missing_ok)
{
	Oid			nsp = sau_registry_schema(missing_ok);
	int			i;

	for (i = 0; i < n_named_rels; i++)
		if (named_rels[i].name == name || strcmp(named_rels[i].name, name) == 0)
			break;
	if (i < n_named_rels && OidIsValid(named_rels[i].relid))
		return named_rels[i].relid;
	if (i == n_named_rels)
	{
		Assert(n_named_rels < lengthof(named_rels));
		named_rels[n_named_rels++].name = name;
	}
	named_rels[i].relid = OidIsValid(nsp) ? get_relname_relid(name, nsp) : InvalidOid;
	if (!OidIsValid(named_rels[i].relid) && !missing_ok)
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_TABLE),
				 errmsg("relation \"%s.%s\" does not exist", SAU_SCHEMA, name),
				 errhint("It is made by the first call of softaudit.enable().")));
	return named_rels[i].relid;
}

/* Read the extension's row: its owner, and whether its version is one that this library serves. */
static void
read_extension(Oid *owner, char **version)
{
	Relation	rel = table_open(ExtensionRelationId, AccessShareLock);
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		isnull;

	ScanKeyInit(&key, Anum_pg_extension_extname, BTEqualStrategyNumber, F_NAMEEQ,
				CStringGetDatum(SAU_SCHEMA));
	scan = systable_beginscan(rel, ExtensionNameIndexId, true, NULL, 1, &key);
	tuple = systable_getnext(scan);
	if (!HeapTupleIsValid(tuple))
		ereport(ERROR,
				(errcode(ERRCODE_UNDEFINED_OBJECT),
				 errmsg("extension \"%s\" is not installed in this database", SAU_SCHEMA),
				 errhint("Run CREATE EXTENSION softaudit.")));
	*owner = ((Form_pg_extension) GETSTRUCT(tuple))->extowner;
	*version = TextDatumGetCString(heap_getattr(tuple, Anum_pg_extension_extversion,
												RelationGetDescr(rel), &isnull));
	systable_endscan(scan);
	table_close(rel, AccessShareLock);
}

/* The role that owns the extension and so the log. */
Oid
sau_registry_owner(void)
{
	Oid			owner;
	char	   *version;

	read_extension(&owner, &version);
	return owner;
}

/*
 * The next value of one of our sequences.  Under wal_level = minimal a sequence that
 * this transaction made writes no WAL, yet would not log its next values either, and
 * repeat them after a crash; setting it makes the next transaction log.
 *
 * A transaction may turn read-only between a change and the flush of its log row, which
 * was allowed with the change.  An error puts that back with its (sub)transaction.
 */
int64
sau_registry_nextval(const char *name)
{
	Oid			relid = sau_registry_relid(name, false);
	bool		save_read_only = XactReadOnly;
	int64		value;

	XactReadOnly = false;
	value = nextval_internal(relid, false);
	if (!XLogIsNeeded())
	{
		Relation	rel = RelationIdGetRelation(relid);
		bool		is_new = rel->rd_createSubid != InvalidSubTransactionId;

		RelationClose(rel);
		if (is_new)
		{
			Oid			save_user;
			int			save_context;

			GetUserIdAndSecContext(&save_user, &save_context);
			SetUserIdAndSecContext(sau_registry_owner(), save_context | SECURITY_LOCAL_USERID_CHANGE);
			DirectFunctionCall2(setval_oid, ObjectIdGetDatum(relid), Int64GetDatum(value));
			SetUserIdAndSecContext(save_user, save_context);
		}
	}
	XactReadOnly = save_read_only;
	return value;
}

/*
 * Refuse to work on SQL objects of a version that this library does not know.  A row
 * written in another layout could not be read back.
 */
static void
check_version(void)
{
	Oid			owner;
	char	   *version;

	read_extension(&owner, &version);
	if (strcmp(version, SAU_SQL_VERSION) != 0)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("the softaudit library serves version %s of the extension, but version %s is installed",
						SAU_SQL_VERSION, version),
				 errhint("Install the library that belongs to the extension and reconnect, or run ALTER EXTENSION softaudit UPDATE.")));
}

/*
 * The log refuses SQL that would change it.  Our own functions say with this
 * pair that they are at work; nothing outside the library can.
 */
void
sau_registry_enter_internal(void)
{
	internal_depth++;
}

void
sau_registry_leave_internal(void)
{
	Assert(internal_depth > 0);
	internal_depth--;
}

/*
 * Somebody's code is about to run within a function of ours: he is not us.  Returns what
 * sau_registry_resume_internal() wants back, after an error, too.
 */
int
sau_registry_suspend_internal(void)
{
	int			depth = internal_depth;

	internal_depth = 0;
	return depth;
}

void
sau_registry_resume_internal(int depth)
{
	internal_depth = depth;
}

bool
sau_registry_is_internal(void)
{
	return internal_depth > 0;
}

/*
 * The capture row trigger of a relation, or NULL.  A copy in the current memory
 * context: the relation cache frees its own at any invalidation, even of a relation that is open
 * and locked, which is why the executor works with a copy, too.
 */
Trigger *
sau_registry_trigger(Relation relation)
{
	TriggerDesc *desc = relation->trigdesc;

	for (int i = 0; desc && i < desc->numtriggers; i++)
	{
		Trigger    *trigger;

		if (!TRIGGER_FOR_ROW(desc->triggers[i].tgtype) ||
			strcmp(desc->triggers[i].tgname, SAU_CAPTURE_TRIGGER) != 0)
			continue;
		trigger = &CopyTriggerDesc(desc)->triggers[i];
		/* no other trigger has this name */
		return get_func_namespace(trigger->tgfoid) == sau_registry_schema(true) ? trigger : NULL;
	}
	return NULL;
}

/*
 * Refuse a relation of ours whose first columns are not of the types that this library
 * reads and writes them as.
 */
void
sau_registry_check_layout(Relation rel, const Oid *types, int n)
{
	TupleDesc	desc = RelationGetDescr(rel);
	bool		good = desc->natts >= n;

	for (int i = 0; good && i < n; i++)
		good = TupleDescAttr(desc, i)->atttypid == types[i] &&
			!TupleDescAttr(desc, i)->attisdropped;
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s.%s\" does not have the columns that this library works with",
						SAU_SCHEMA, RelationGetRelationName(rel)),
				 errhint("Run ALTER EXTENSION softaudit UPDATE, and see that the library and the extension are of one version.")));
}

/*
 * Fetch a row of softaudit.registry by its id, or by its relation where table_id is
 * zero.  The newest committed row counts, whatever the transaction's snapshot: the
 * trigger that fired is as new.  The result is a copy, or NULL.
 */
static HeapTuple
registry_row(int32 table_id, Oid relid, TupleDesc *desc)
{
	static const Oid types[] = {
		INT4OID, REGCLASSOID, INT4OID, NAMEOID, NAMEOID, NAMEARRAYOID, NAMEARRAYOID, INT4ARRAYOID, NAMEARRAYOID,
		NAMEARRAYOID, INT8OID, TEXTARRAYOID, INT8OID, BOOLOID, TEXTARRAYOID
	};
	Relation	registry = table_open(sau_registry_relid("registry", false), AccessShareLock);
	Oid			index = sau_registry_relid(table_id != 0 ? "registry_pkey" : "registry_relation_key", false);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	ScanKeyData key;
	SysScanDesc scan;
	HeapTuple	tuple;

	sau_registry_check_layout(registry, types, lengthof(types));
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
static char **
name_array(HeapTuple tuple, TupleDesc desc, int attno, int *n)
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
sau_registry_image_key(int32 table_id, int *n)
{
	TupleDesc	desc;
	HeapTuple	tuple = registry_row(table_id, InvalidOid, &desc);

	*n = 0;
	return HeapTupleIsValid(tuple) ? name_array(tuple, desc, REGISTRY_IMAGE_KEY, n) : NULL;
}

/* The primary key's columns in the order of its index, as they are now or were last. */
char **
sau_registry_key_columns(int32 table_id, int *n)
{
	TupleDesc	desc;
	HeapTuple	tuple = registry_row(table_id, InvalidOid, &desc);

	*n = 0;
	return HeapTupleIsValid(tuple) ? name_array(tuple, desc, REGISTRY_KEY_COLUMNS, n) : NULL;
}

/*
 * The first log row whose key may be of the columns that the table's key is of now; the
 * largest number if that is not known, since nobody followed how the key came about.
 */
int64
sau_registry_key_since(int32 table_id, Oid relid, const AttrNumber *attnums, int nkeys)
{
	TupleDesc	desc;
	HeapTuple	tuple = registry_row(table_id, InvalidOid, &desc);
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
	if (nkeys == 0 || n == 0 || strcmp(TextDatumGetCString(args[0]), sau_registry_identity(relid)) != 0)
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
sau_registry_key_retyped(int32 table_id)
{
	TupleDesc	desc;
	HeapTuple	tuple = registry_row(table_id, InvalidOid, &desc);
	bool		isnull;

	return HeapTupleIsValid(tuple) && DatumGetBool(heap_getattr(tuple, REGISTRY_KEY_RETYPED, desc, &isnull));
}

/*
 * The first log row whose image may have a column of this relation under the name that it
 * has now, by attnum - 1; the largest number if that is not known.  The relation is the
 * enabled table, or a part of it.
 */
int64 *
sau_registry_column_since(int32 table_id, Oid rootid, Relation relation)
{
	TupleDesc	columns = RelationGetDescr(relation);
	int64	   *since = palloc0(Max(columns->natts, 1) * sizeof(int64));
	TupleDesc	desc;
	HeapTuple	tuple = registry_row(table_id, InvalidOid, &desc);
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
		strcmp(TextDatumGetCString(args[0]), sau_registry_identity(rootid)) == 0;
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

/* Read a description's part of the registry; false if there is no such row. */
static bool
read_registry(SauRel *rel, Oid *relation)
{
	TupleDesc	desc;
	HeapTuple	tuple = registry_row(rel->table_id, InvalidOid, &desc);
	MemoryContext old;
	bool		isnull;
	Datum		d;

	if (!HeapTupleIsValid(tuple))
		return false;
	d = heap_getattr(tuple, REGISTRY_RELATION, desc, &isnull);
	*relation = isnull ? InvalidOid : DatumGetObjectId(d);
	d = heap_getattr(tuple, REGISTRY_LOG_GROUP, desc, &isnull);
	rel->log_group = (int16) DatumGetInt32(d);
	old = MemoryContextSwitchTo(rel->cxt);
	rel->image_key = name_array(tuple, desc, REGISTRY_IMAGE_KEY, &rel->n_image_key);
	MemoryContextSwitchTo(old);
	return true;
}

/* The log groups that a table's changes may be in. */
int32 *
sau_registry_groups(int32 table_id, int *ngroups)
{
	TupleDesc	desc;
	HeapTuple	tuple = registry_row(table_id, InvalidOid, &desc);
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
sau_registry_names(int32 table_id, char **schema_name, char **table_name)
{
	TupleDesc	desc;
	HeapTuple	tuple = registry_row(table_id, InvalidOid, &desc);
	bool		isnull;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "table id %d is not in softaudit.registry", table_id);
	*schema_name = pstrdup(NameStr(*DatumGetName(heap_getattr(tuple, REGISTRY_SCHEMA_NAME, desc, &isnull))));
	*table_name = pstrdup(NameStr(*DatumGetName(heap_getattr(tuple, REGISTRY_TABLE_NAME, desc, &isnull))));
}

/* Set a column's flags by name in the firing relation; false if it has no such column. */
static bool
flag_by_name(SauRel *rel, Relation relation, const char *name, uint8 flags)
{
	AttrNumber	attno = get_attnum(RelationGetRelid(relation), name);

	if (attno <= 0)
		return false;
	rel->column_flags[attno - 1] |= flags;
	return true;
}

/*
 * Resolve one column that the settings list.
 *
 * The argument names it twice, by number and by name, since neither survives
 * everything: numbers change in a dump and restore, names in a RENAME.  While the
 * arguments are of the table that they were written for (root_known), the number
 * is the truth, and the name counts beside it for a column dropped and made anew.
 * After a restore only the name is left.  A number of zero marks a column that
 * had been dropped.  A column that can't be told at all makes the description
 * unresolved: nothing of the row is then logged but its key.
 */
static void
resolve_column(SauRel *rel, Relation relation, Relation root, const char *arg)
{
	uint8		flags = 0;
	int			attno;
	const char *name;
	bool		found;

	for (; *arg && strchr("xri", *arg); arg++)
		flags |= (*arg == 'x') ? SAU_COLUMN_EXCLUDE :
			(*arg == 'r') ? SAU_COLUMN_REDACT : SAU_COLUMN_IGNORE;
	attno = atoi(arg);
	name = strchr(arg, ':');
	if (flags == 0 || name == NULL)
		elog(ERROR, "malformed capture trigger argument on \"%s\"", RelationGetRelationName(relation));
	name++;

	found = flag_by_name(rel, relation, name, flags);
	if (attno == 0)
		return;					/* known to be dropped; the name still binds a new column */
	if (root != NULL)
	{
		if (attno <= RelationGetNumberOfAttributes(root))
		{
			Form_pg_attribute att = TupleDescAttr(RelationGetDescr(root), attno - 1);

			if (!att->attisdropped)
				flag_by_name(rel, relation, NameStr(att->attname), flags);
		}
		return;
	}
	if (!found)
		rel->unresolved = true;
}

/*
 * What tells a table from its copy in another database: in a restored one the numbers
 * of columns may be others.  OIDs alone may come out the same there.
 */
char *
sau_registry_identity(Oid relid)
{
	return psprintf("%u@%u/" UINT64_FORMAT, relid, MyDatabaseId, GetSystemIdentifier());
}

/* Build a description in a context of its own. */
static SauRel *
build_rel(Relation relation, Trigger *trigger)
{
	MemoryContext cxt = AllocSetContextCreate(CurrentMemoryContext, "softaudit relation",
											  ALLOCSET_SMALL_SIZES);
	SauRel	   *rel = MemoryContextAllocZero(cxt, sizeof(SauRel));
	Oid			relid = RelationGetRelid(relation);
	Oid			registered = InvalidOid;
	Oid			rootid = relid;
	Relation	root = NULL;
	bool		shape_ok;

	check_version();
	MemoryContextCopyAndSetIdentifier(cxt, RelationGetRelationName(relation));
	rel->cxt = cxt;
	rel->relid = relid;
	if (trigger->tgnargs < ARG_COLUMNS)
		ereport(ERROR,
				(errcode(ERRCODE_E_R_I_E_TRIGGER_PROTOCOL_VIOLATED),
				 errmsg("trigger \"%s\" on \"%s\" was not made by softaudit.enable()",
						trigger->tgname, RelationGetRelationName(relation)),
				 errhint("Drop it and call softaudit.enable() for the table.")));
	rel->table_id = atoi(trigger->tgargs[ARG_TABLE_ID]);
	rel->changes_only = strcmp(trigger->tgargs[ARG_IMAGES], "changes") == 0;
	rel->natts = RelationGetNumberOfAttributes(relation);
	rel->column_flags = MemoryContextAllocZero(cxt, Max(rel->natts, 1));

	if (relation->rd_rel->relispartition)
	{
		List	   *ancestors = sau_ancestors_of(relid);
		ListCell   *lc;
		bool		found = read_registry(rel, &registered);

		foreach(lc, ancestors)
			if (found && lfirst_oid(lc) == registered)
				rootid = registered;
		shape_ok = found && registered == rootid;
		list_free(ancestors);
		if (rootid != relid)
			rel->partition_name =
				MemoryContextStrdup(cxt,
									quote_qualified_identifier(get_namespace_name(RelationGetNamespace(relation)),
															   RelationGetRelationName(relation)));
	}
	else
		shape_ok = read_registry(rel, &registered) && registered == relid;
	if (!shape_ok)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" has an audit trigger but is not in softaudit.registry",
						RelationGetRelationName(relation)),
				 errdetail("Its changes cannot be attributed, so they are refused."),
				 errhint("Call softaudit.enable() for it again, or drop its trigger \"%s\".",
						 trigger->tgname)));
	rel->rootid = rootid;

	if (trigger->tgnargs > ARG_COLUMNS)
	{
		if (strcmp(trigger->tgargs[ARG_IDENTITY], sau_registry_identity(rootid)) == 0)
			root = (rootid == relid) ? relation : table_open(rootid, AccessShareLock);
		for (int i = ARG_COLUMNS; i < trigger->tgnargs; i++)
			resolve_column(rel, relation, root, trigger->tgargs[i]);
		if (root != NULL && root != relation)
			table_close(root, NoLock);
		for (int i = 0; i < rel->natts; i++)
			if (rel->column_flags[i] & SAU_COLUMN_IGNORE)
				rel->has_ignore = true;
	}
	MemoryContextSetParent(cxt, CacheMemoryContext);
	rel->valid = true;
	return rel;
}

/* Let go of a description: free it now, or at the end of the capture that holds it. */
static void
discard_rel(SauRel *rel)
{
	if (rel->in_use > 0)
	{
		rel->orphan = true;
		rel->next_orphan = orphans;
		orphans = rel;
	}
	else
		MemoryContextDelete(rel->cxt);
}

/* Free what invalidation left behind, once there is much of it (tables made and dropped). */
static void
sweep(void)
{
	HASH_SEQ_STATUS seq;
	RelSlot    *slot;

	last_slot = NULL;
	hash_seq_init(&seq, rel_table);
	while ((slot = hash_seq_search(&seq)) != NULL)
		if (!slot->rel->valid)
		{
			discard_rel(slot->rel);
			hash_search(rel_table, &slot->relid, HASH_REMOVE, NULL);
		}
	sweep_at = Max(SWEEP_AT_LEAST, 2 * hash_get_num_entries(rel_table));
}

/* Count a capture into and out of a description. */
void
sau_registry_hold(SauRel *rel)
{
	rel->in_use++;
	n_held++;
}

void
sau_registry_release(SauRel *rel)
{
	n_held--;
	if (--rel->in_use == 0 && rel->orphan)
	{
		SauRel	  **link = &orphans;

		while (*link != rel)
			link = &(*link)->next_orphan;
		*link = rel->next_orphan;
		MemoryContextDelete(rel->cxt);
	}
}

/* At the end of a top transaction: captures that ended in an error hold nothing any more. */
void
sau_registry_xact_end(void)
{
	HASH_SEQ_STATUS seq;
	RelSlot    *slot;

	internal_depth = 0;
	if (n_held == 0)
		return;
	n_held = 0;
	while (orphans)
	{
		SauRel	   *rel = orphans;

		orphans = rel->next_orphan;
		MemoryContextDelete(rel->cxt);
	}
	if (rel_table == NULL)
		return;
	hash_seq_init(&seq, rel_table);
	while ((slot = hash_seq_search(&seq)) != NULL)
		slot->rel->in_use = 0;
}

/*
 * How the changes of this relation are captured.  "trigger" is the one that
 * fired, or the one that sau_registry_trigger() found.  The result is valid until
 * the caller next lets invalidation in, unless it counts itself in in_use.
 */
SauRel *
sau_registry_get(Relation relation, Trigger *trigger)
{
	Oid			relid = RelationGetRelid(relation);
	RelSlot    *slot = last_slot;
	SauRel	   *rel;

	if (likely(slot && slot->relid == relid && slot->rel->valid))
		return slot->rel;

	if (rel_table == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(Oid);
		ctl.entrysize = sizeof(RelSlot);
		rel_table = hash_create("softaudit relations", 64, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	slot = hash_search(rel_table, &relid, HASH_FIND, NULL);
	if (slot == NULL || !slot->rel->valid)
	{
		bool		found;

		if (hash_get_num_entries(rel_table) >= sweep_at)
			sweep();
		rel = build_rel(relation, trigger);
		slot = hash_search(rel_table, &relid, HASH_ENTER, &found);
		if (found)
			discard_rel(slot->rel);
		slot->rel = rel;
	}
	last_slot = slot;
	return slot->rel;
}

/*
 * Read the key of the redacted values' digests from softaudit.log_secret, which
 * only the log's owner can read.
 */
void
sau_registry_secret(uint8 *secret, int len)
{
	static const Oid types[] = {BYTEAOID};
	Relation	rel = table_open(sau_registry_relid("log_secret", false), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		good = false;

	sau_registry_check_layout(rel, types, lengthof(types));
	scan = systable_beginscan(rel, InvalidOid, false, snapshot, 0, NULL);
	tuple = systable_getnext(scan);

	if (HeapTupleIsValid(tuple))
	{
		bool		isnull;
		Datum		d = heap_getattr(tuple, 1, RelationGetDescr(rel), &isnull);

		if (!isnull)
		{
			bytea	   *b = DatumGetByteaPP(d);

			if (VARSIZE_ANY_EXHDR(b) == len)
			{
				memcpy(secret, VARDATA_ANY(b), len);
				good = true;
			}
		}
	}
	systable_endscan(scan);
	UnregisterSnapshot(snapshot);
	table_close(rel, AccessShareLock);
	if (!good)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("\"%s.log_secret\" does not hold the key for redacted values", SAU_SCHEMA),
				 errhint("Restore the row from a backup; with another key the digests of old and new values could not be compared.")));
}

/* Flag the columns of a name[] of the registry, as far as they are there. */
static void
flag_listed(SauRel *rel, Relation relation, HeapTuple tuple, TupleDesc desc, int attno, uint8 flags)
{
	int			n;
	char	  **names = name_array(tuple, desc, attno, &n);

	for (int i = 0; i < n; i++)
		flag_by_name(rel, relation, names[i], flags);
}

/*
 * How a relation's rows are found in the log, for readers: as it is captured, or, if
 * its audit was switched off, as its row in the registry says.  Raises
 * object_not_in_prerequisite_state if softaudit does not know the table.
 */
SauRel *
sau_registry_describe(Relation relation)
{
	Trigger    *trigger = sau_registry_trigger(relation);
	Oid			relid = RelationGetRelid(relation);
	List	   *candidates = list_make1_oid(relid);
	ListCell   *lc;

	if (trigger)
		return sau_registry_get(relation, trigger);
	if (relation->rd_rel->relispartition)
		candidates = list_concat(candidates, sau_ancestors_of(relid));
	if (OidIsValid(sau_registry_relid("registry", true)))
		foreach(lc, candidates)
		{
			TupleDesc	desc;
			HeapTuple	tuple = registry_row(0, lfirst_oid(lc), &desc);
			SauRel	   *rel;
			bool		isnull;

			if (!HeapTupleIsValid(tuple))
				continue;
			rel = palloc0(sizeof(SauRel));
			rel->relid = relid;
			rel->rootid = lfirst_oid(lc);
			rel->cxt = CurrentMemoryContext;
			rel->table_id = DatumGetInt32(heap_getattr(tuple, REGISTRY_TABLE_ID, desc, &isnull));
			rel->natts = RelationGetNumberOfAttributes(relation);
			rel->column_flags = palloc0(Max(rel->natts, 1));
			flag_listed(rel, relation, tuple, desc, REGISTRY_EXCLUDE, SAU_COLUMN_EXCLUDE);
			flag_listed(rel, relation, tuple, desc, REGISTRY_REDACT, SAU_COLUMN_REDACT);
			return rel;
		}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("table \"%s\" is not audited", RelationGetRelationName(relation)),
			 errhint("Call softaudit.enable() for it.")));
}
