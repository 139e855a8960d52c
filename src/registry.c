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

#include "access/htup_details.h"
#include "access/table.h"
#include "catalog/pg_trigger.h"
#include "miscadmin.h"
#include "softaudit.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

/* Arguments of the capture trigger, as setup's SQL writes them. */
#define ARG_TABLE_ID	0
#define ARG_IDENTITY	1		/* sau_entry_identity() of the table that was enabled */
#define ARG_IMAGES		2
#define ARG_COLUMNS		3		/* and all that follow: flags, attnum, ':', name */

typedef struct RelSlot
{
	Oid			relid;			/* hash key */
	SauRel	   *rel;
} RelSlot;

#define SWEEP_AT_LEAST	256

static HTAB *rel_table = NULL;
static long sweep_at = SWEEP_AT_LEAST;
static int	n_held = 0;
static SauRel *orphans = NULL;	/* replaced while in use, not yet released */
static RelSlot *last_slot = NULL;

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
	sau_objects_forget(relid);
}

/* A cast to json, a type or a schema changed: what images and names rest on. */
static void
syscache_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	relcache_callback((Datum) 0, InvalidOid);
}

/* Register the invalidation callbacks; called once when the library is loaded. */
void
sau_registry_init(void)
{
	CacheRegisterRelcacheCallback(relcache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(CASTSOURCETARGET, syscache_callback, (Datum) 0);
	CacheRegisterSyscacheCallback(NAMESPACEOID, syscache_callback, (Datum) 0);
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
		return get_func_namespace(trigger->tgfoid) == sau_objects_schema(true) ? trigger : NULL;
	}
	return NULL;
}

/* Read a description's part of the registry; false if there is no such row. */
static bool
read_registry(SauRel *rel, Oid *relation)
{
	TupleDesc	desc;
	HeapTuple	tuple = sau_entry_row(rel->table_id, InvalidOid, &desc);
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
	rel->image_key = sau_entry_names_at(tuple, desc, REGISTRY_IMAGE_KEY, &rel->n_image_key);
	MemoryContextSwitchTo(old);
	return true;
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

	sau_objects_check_version();
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
		if (strcmp(trigger->tgargs[ARG_IDENTITY], sau_entry_identity(rootid)) == 0)
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

	sau_objects_xact_end();
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

/* Flag the columns of a name[] of the registry, as far as they are there. */
static void
flag_listed(SauRel *rel, Relation relation, HeapTuple tuple, TupleDesc desc, int attno, uint8 flags)
{
	int			n;
	char	  **names = sau_entry_names_at(tuple, desc, attno, &n);

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
	if (OidIsValid(sau_objects_relid("registry", true)))
		foreach(lc, candidates)
		{
			TupleDesc	desc;
			HeapTuple	tuple = sau_entry_row(0, lfirst_oid(lc), &desc);
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
