/*
 * objects.c
 *		softaudit's own schema, relations, sequences and secret, and who is at work on them.
 *
 * The OIDs are kept by name and forgotten on any invalidation that may concern them: registry.c has
 * the callbacks, of which a server has room for ten.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "access/xlog.h"
#include "catalog/namespace.h"
#include "catalog/pg_extension.h"
#include "commands/sequence.h"
#include "miscadmin.h"
#include "softaudit.h"
#include "utils/builtins.h"
#include "utils/fmgroids.h"
#include "utils/fmgrprotos.h"
#include "utils/lsyscache.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

typedef struct NamedRel
{
	const char *name;
	Oid			relid;
} NamedRel;

static Oid	schema_oid = InvalidOid;
static NamedRel named_rels[16];
static int	n_named_rels = 0;

/* Depth of our own functions that may touch the log; see sau_objects_enter_internal(). */
static int	internal_depth = 0;

/* A relation changed, or with InvalidOid anything: forget what OIDs that may concern. */
void
sau_objects_forget(Oid relid)
{
	for (int i = 0; i < n_named_rels; i++)
		if (!OidIsValid(relid) || named_rels[i].relid == relid)
			named_rels[i].relid = InvalidOid;
	if (!OidIsValid(relid))
		schema_oid = InvalidOid;
}

/* The OID of our schema. */
Oid
sau_objects_schema(bool missing_ok)
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
sau_objects_relid(const char *name, bool missing_ok)
{
	Oid			nsp = sau_objects_schema(missing_ok);
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
sau_objects_owner(void)
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
sau_objects_nextval(const char *name)
{
	Oid			relid = sau_objects_relid(name, false);
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
			SetUserIdAndSecContext(sau_objects_owner(), save_context | SECURITY_LOCAL_USERID_CHANGE);
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
void
sau_objects_check_version(void)
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
sau_objects_enter_internal(void)
{
	internal_depth++;
}

void
sau_objects_leave_internal(void)
{
	Assert(internal_depth > 0);
	internal_depth--;
}

/*
 * Somebody's code is about to run within a function of ours: he is not us.  Returns what
 * sau_objects_resume_internal() wants back, after an error, too.
 */
int
sau_objects_suspend_internal(void)
{
	int			depth = internal_depth;

	internal_depth = 0;
	return depth;
}

void
sau_objects_resume_internal(int depth)
{
	internal_depth = depth;
}

bool
sau_objects_is_internal(void)
{
	return internal_depth > 0;
}

/*
 * Refuse a relation of ours whose first columns are not of the types that this library
 * reads and writes them as.
 */
void
sau_objects_check_layout(Relation rel, const Oid *types, int n)
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

/* At the end of a top transaction: nothing of ours is at work any more, whatever ended in an error. */
void
sau_objects_xact_end(void)
{
	internal_depth = 0;
}

/*
 * Read the key of the redacted values' digests from softaudit.log_secret, which
 * only the log's owner can read.
 */
void
sau_objects_secret(uint8 *secret, int len)
{
	static const Oid types[] = {BYTEAOID};
	Relation	rel = table_open(sau_objects_relid("log_secret", false), AccessShareLock);
	Snapshot	snapshot = RegisterSnapshot(GetLatestSnapshot());
	SysScanDesc scan;
	HeapTuple	tuple;
	bool		good = false;

	sau_objects_check_layout(rel, types, lengthof(types));
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
