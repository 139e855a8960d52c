/*
 * keyquery.c
 *		The queries that foreign keys of soft-deleted tables need, and what they refuse.
 *
 * Step of the path: fkey.c has rows at hand whose foreign keys are to be acted on or checked; this
 * file reads the keys, and writes, plans and runs what looks at the other side.
 *
 * A query on a table runs as that table's owner, as in ri_triggers.c: what compares its
 * columns may be somebody's function.  So none joins the two tables: the key values of the
 * rows at hand are handed over, all at once as arrays.  The filter leaves our queries alone, which are
 * told by where their text is kept: the same words are nobody else's.
 */
#include "postgres.h"

#include "access/htup_details.h"
#include "access/sysattr.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/partition.h"
#include "catalog/pg_collation.h"
#include "catalog/pg_constraint.h"
#include "catalog/pg_type.h"
#include "commands/trigger.h"
#include "executor/spi.h"
#include "miscadmin.h"
#include "softaudit.h"
#include "storage/lmgr.h"
#include "utils/acl.h"
#include "utils/builtins.h"
#include "utils/hsearch.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/rel.h"
#include "utils/rls.h"
#include "utils/ruleutils.h"
#include "utils/snapmgr.h"
#include "utils/syscache.h"

typedef struct PlanKey
{
	Oid			relid;			/* the relation that the rows are in */
	Oid			constraint;
	SauKeyQuery	kind;
} PlanKey;

typedef struct PlanEntry
{
	PlanKey		key;
	SPIPlanPtr	plan;
} PlanEntry;

static HTAB *plans = NULL;

/*
 * A query that marks rows fires triggers, and those may have the same query run again, one level
 * deeper: a plan that became stale meanwhile is freed when the outermost one has ended.
 */
static int	running = 0;
static List *retired = NIL;

static void
free_plan(SPIPlanPtr plan)
{
	MemoryContext oldcxt;

	if (running == 0)
	{
		SPI_freeplan(plan);
		return;
	}
	oldcxt = MemoryContextSwitchTo(TopMemoryContext);
	retired = lappend(retired, plan);
	MemoryContextSwitchTo(oldcxt);
}

static void
free_retired(void)
{
	while (retired != NIL)
	{
		SPIPlanPtr	plan = linitial(retired);

		retired = list_delete_first(retired);
		SPI_freeplan(plan);
	}
}

/* Is this the text of a query of ours that is being planned? */
bool
sau_keyquery_is_ours(const char *text)
{
	HASH_SEQ_STATUS status;
	PlanEntry  *entry;
	bool		found = false;

	if (plans == NULL || strncmp(text, SAU_KEY_QUERY, strlen(SAU_KEY_QUERY)) != 0)
		return false;
	hash_seq_init(&status, plans);
	while ((entry = hash_seq_search(&status)) != NULL)
	{
		ListCell   *lc;

		if (entry->plan && !found)
			foreach(lc, SPI_plan_get_plan_sources(entry->plan))
				found |= ((CachedPlanSource *) lfirst(lc))->query_string == text;
	}
	return found;
}

/* ---- foreign keys of a relation ---- */

static bool
read_key(Oid constraint, SauKey *key)
{
	HeapTuple	tuple = SearchSysCache1(CONSTROID, ObjectIdGetDatum(constraint));
	Form_pg_constraint form;
	Oid			pp[INDEX_MAX_KEYS];
	Oid			ff[INDEX_MAX_KEYS];
	AttrNumber	set_cols[INDEX_MAX_KEYS];
	int			n_set_cols;

	if (!HeapTupleIsValid(tuple))
		return false;
	form = (Form_pg_constraint) GETSTRUCT(tuple);
	if (form->contype != CONSTRAINT_FOREIGN)
	{
		ReleaseSysCache(tuple);
		return false;
	}
	key->oid = constraint;
	key->name = pstrdup(NameStr(form->conname));
	key->child = form->conrelid;
	key->parent = form->confrelid;
	key->on_delete = form->confdeltype;
	key->is_deferrable = form->condeferrable;
	key->is_deferred = form->condeferred;
	DeconstructFkConstraintRow(tuple, &key->n, key->child_atts, key->parent_atts, key->operators,
							   pp, ff, &n_set_cols, set_cols);
	ReleaseSysCache(tuple);
	return true;
}

/*
 * The foreign keys that a relation is in, as the parent or as the child: those whose
 * triggers it has, which for a partition are its own.
 */
List *
sau_keyquery_keys(Relation relation, int trigger_type)
{
	TriggerDesc *desc = relation->trigdesc;
	List	   *seen = NIL;
	List	   *keys = NIL;
	ListCell   *lc;

	for (int i = 0; desc && i < desc->numtriggers; i++)
		if (OidIsValid(desc->triggers[i].tgconstraint) &&
			RI_FKey_trigger_type(desc->triggers[i].tgfoid) == trigger_type)
			seen = list_append_unique_oid(seen, desc->triggers[i].tgconstraint);
	foreach(lc, seen)
	{
		SauKey		   *key = palloc0(sizeof(SauKey));

		if (read_key(lfirst_oid(lc), key))
			keys = lappend(keys, key);
	}
	return keys;
}

/* ---- queries ---- */

static char *
relation_name(Oid relid)
{
	return quote_qualified_identifier(get_namespace_name(get_rel_namespace(relid)), get_rel_name(relid));
}

static const char *
column_name(const char *alias, Oid relid, AttrNumber attno)
{
	return psprintf("%s.%s", alias, quote_identifier(get_attname(relid, attno, false)));
}

static Oid
get_attcollation(Oid relid, AttrNumber attno)
{
	Oid			type;
	int32		typmod;
	Oid			collation;

	get_atttypetypmodcoll(relid, attno, &type, &typmod, &collation);
	return collation;
}

static void
append_collation(StringInfo sql, Oid collation)
{
	HeapTuple	tuple = SearchSysCache1(COLLOID, ObjectIdGetDatum(collation));
	Form_pg_collation form;

	if (!HeapTupleIsValid(tuple))
		elog(ERROR, "cache lookup failed for collation %u", collation);
	form = (Form_pg_collation) GETSTRUCT(tuple);
	appendStringInfo(sql, " COLLATE %s",
					 quote_qualified_identifier(get_namespace_name(form->collnamespace), NameStr(form->collname)));
	ReleaseSysCache(tuple);
}

/*
 * The condition that row "t" of the table that is looked at belongs to key "k" of the
 * rows at hand: those are the parents' side, or the children's.
 */
static void
append_join(StringInfo sql, const SauKey *key, Oid looked_at, const AttrNumber *atts, Oid at_hand, const AttrNumber *hand_atts, bool hand_is_parent)
{
	for (int i = 0; i < key->n; i++)
	{
		const char *ours = psprintf("k.k%d", i + 1);
		const char *theirs = column_name("t", looked_at, atts[i]);
		Oid			our_type = get_atttype(at_hand, hand_atts[i]);
		Oid			their_type = get_atttype(looked_at, atts[i]);

		if (i > 0)
			appendStringInfoString(sql, " AND ");
		if (hand_is_parent)
			generate_operator_clause(sql, ours, our_type, key->operators[i], theirs, their_type);
		else
			generate_operator_clause(sql, theirs, their_type, key->operators[i], ours, our_type);
		if (hand_is_parent)
		{
			Oid			collation = get_attcollation(at_hand, hand_atts[i]);

			/* equal is what the parent's collation says, as in ri_GenerateQualCollation() */
			if (OidIsValid(collation) && collation != get_attcollation(looked_at, atts[i]) && !get_collation_isdeterministic(collation))
				append_collation(sql, collation);
		}
	}
}

static const char *
only(Oid relid)
{
	return get_rel_relkind(relid) == RELKIND_PARTITIONED_TABLE ? "" : "ONLY ";
}

/* A stamp, as a column's type wants it. */
static const char *
as_stamp(const char *expr, const SauMarker *marker)
{
	return marker->typid == TIMESTAMPOID ? psprintf("(%s AT TIME ZONE 'UTC')", expr) : expr;
}

/*
 * Can all key values be handed over as arrays?  A type that has none goes row by row, and so
 * does a composite one, which unnest() would take apart.
 */
bool
sau_keyquery_has_arrays(Oid relid, const AttrNumber *atts, int n)
{
	for (int i = 0; i < n; i++)
	{
		Oid			type = get_atttype(relid, atts[i]);

		if (!OidIsValid(get_array_type(type)) || type_is_rowtype(type))
			return false;
	}
	return true;
}

/*
 * The table by whose name a row is marked that is in "relid": that one, but for a partition whose
 * place the marker decides: there the row is to move.
 */
static Oid
marked_by(Oid relid)
{
	ListCell   *lc;

	if (!get_rel_relispartition(relid))
		return relid;
	foreach(lc, sau_ancestors_of(relid))
	{
		const SauMarker *marker = sau_marker_get(lfirst_oid(lc));
		Relation	relation = marker ? try_table_open(lfirst_oid(lc), AccessShareLock) : NULL;
		bool		in_expr;
		bool		decides;

		if (relation == NULL)
			continue;
		decides = has_partition_attrs(relation, bms_make_singleton(marker->attno - FirstLowInvalidHeapAttributeNumber), &in_expr);
		table_close(relation, NoLock);
		if (decides)
			return lfirst_oid(lc);
	}
	return relid;
}

/* Whether the rows at hand are the parents, in a query of this kind. */
bool
sau_keyquery_hand_is_parent(SauKeyQuery kind)
{
	return kind == SAU_KEY_REFERRED || kind == SAU_KEY_CASCADE || kind == SAU_KEY_CASCADE_RESTORE;
}

/* The keys of the rows at hand as a FROM item "k", with their stamps last; and the parameters' types. */
static int
append_keys(StringInfo sql, Oid relid, const AttrNumber *atts, int n, Oid *types)
{
	bool		arrays = sau_keyquery_has_arrays(relid, atts, n);
	StringInfoData items;
	StringInfoData names;

	initStringInfo(&items);
	initStringInfo(&names);
	for (int i = 0; i <= n; i++)
	{
		Oid			type = i < n ? get_atttype(relid, atts[i]) : TIMESTAMPTZOID;

		types[i] = arrays ? get_array_type(type) : type;
		appendStringInfo(&items, arrays ? "%spg_catalog.unnest($%d)" : "%s$%d", i > 0 ? ", " : "", i + 1);
		if (i < n)
			appendStringInfo(&names, "k%d, ", i + 1);
	}
	appendStringInfo(sql, arrays ? " FROM ROWS FROM (%s) k (%ss) JOIN " : " FROM (SELECT %s) k (%ss) JOIN ", items.data, names.data);
	return n + 1;
}

/*
 * The plan of a query.  "relid" is the relation whose rows are at hand; the query looks at
 * that one, or at the other side of the key.
 */
static SPIPlanPtr
plan_for(SauKeyQuery kind, Oid relid, const SauKey *key)
{
	PlanKey		plan_key;
	PlanEntry  *entry;
	bool		found;
	StringInfoData sql;
	Oid			types[INDEX_MAX_KEYS + 1];
	int			n_types;
	const SauMarker *marker;
	SPIPlanPtr	plan;

	if (plans == NULL)
	{
		HASHCTL		ctl = {0};

		ctl.keysize = sizeof(PlanKey);
		ctl.entrysize = sizeof(PlanEntry);
		plans = hash_create("softaudit key queries", 32, &ctl, HASH_ELEM | HASH_BLOBS);
	}
	memset(&plan_key, 0, sizeof(plan_key));
	plan_key.relid = relid;
	plan_key.constraint = key ? key->oid : InvalidOid;
	plan_key.kind = kind;
	entry = hash_search(plans, &plan_key, HASH_FIND, NULL);
	if (entry && entry->plan)
	{
		if (SPI_plan_is_valid(entry->plan))
			return entry->plan;
		free_plan(entry->plan);
		entry->plan = NULL;
	}

	initStringInfo(&sql);
	appendStringInfoString(&sql, SAU_KEY_QUERY);
	types[0] = TIDARRAYOID;
	types[1] = TIMESTAMPTZARRAYOID;
	n_types = 1;
	if (key)
	{
		bool		parent_at_hand = sau_keyquery_hand_is_parent(kind);
		Oid			other = parent_at_hand ? key->child : key->parent;
		const AttrNumber *here = parent_at_hand ? key->parent_atts : key->child_atts;
		const AttrNumber *there = parent_at_hand ? key->child_atts : key->parent_atts;

		marker = sau_marker_get(other);
		if (kind == SAU_KEY_CASCADE || kind == SAU_KEY_CASCADE_RESTORE)
			appendStringInfoString(&sql, "SELECT t.tableoid, t.ctid, k.s");
		else
		{
			appendStringInfoString(&sql, "SELECT pg_catalog.concat_ws(', '");
			for (int i = 0; i < key->n; i++)
				appendStringInfo(&sql, ", k.k%d", i + 1);
			appendStringInfoChar(&sql, ')');
		}
		n_types = append_keys(&sql, relid, here, key->n, types);
		appendStringInfo(&sql, "%s%s t ON ", only(other), relation_name(other));
		append_join(&sql, key, other, there, relid, here, parent_at_hand);
		switch (kind)
		{
			case SAU_KEY_REFERRED:
				if (marker)
					appendStringInfo(&sql, " WHERE %s IS NULL", column_name("t", other, marker->attno));
				/* it waits for who deletes the child, which for a marked one is no change of a key */
				appendStringInfo(&sql, " LIMIT 1 FOR %s OF t", marker ? "SHARE" : "KEY SHARE");
				break;
			case SAU_KEY_CASCADE:
				appendStringInfo(&sql, " WHERE %s IS NULL FOR UPDATE OF t", column_name("t", other, marker->attno));
				break;
			case SAU_KEY_CASCADE_RESTORE:
				appendStringInfo(&sql, " WHERE %s OPERATOR(pg_catalog.=) %s FOR UPDATE OF t",
								 column_name("t", other, marker->attno), as_stamp("k.s", marker));
				break;
			case SAU_KEY_DEAD_PARENT:
				appendStringInfo(&sql, " WHERE %s IS NOT NULL LIMIT 1", column_name("t", other, marker->attno));
				break;
			default:
				appendStringInfoString(&sql, " FOR KEY SHARE OF t");
				break;
		}
	}
	else if (kind == SAU_KEY_LOCK)
		appendStringInfo(&sql, "SELECT 1 FROM ONLY %s t WHERE t.ctid OPERATOR(pg_catalog.=) ANY ($1) FOR UPDATE OF t", relation_name(relid));
	else
	{
		Oid			whole = marked_by(relid);
		const char *place = whole == relid ? "" : psprintf(" AND t.tableoid OPERATOR(pg_catalog.=) %u::pg_catalog.oid", relid);
		const char *from = psprintf("%s%s", only(whole), relation_name(whole));
		const char *column;

		marker = sau_marker_get(whole);
		column = quote_identifier(get_attname(whole, marker->attno, false));
		if (kind == SAU_KEY_MARK)
		{
			n_types = 2;
			appendStringInfo(&sql, "UPDATE %s t SET %s = %s FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) u (t, s)"
							 " WHERE t.ctid OPERATOR(pg_catalog.=) u.t AND t.%s IS NULL%s",
							 from, column, as_stamp("u.s", marker), column, place);
		}
		else
			appendStringInfo(&sql, "UPDATE %s t SET %s = NULL FROM pg_catalog.unnest($1) u (t)"
							 " WHERE t.ctid OPERATOR(pg_catalog.=) u.t%s", from, column, place);
	}

	plan = SPI_prepare(sql.data, n_types, types);
	if (plan == NULL)
		elog(ERROR, "SPI_prepare failed: %s", SPI_result_code_string(SPI_result));
	SPI_keepplan(plan);
	entry = hash_search(plans, &plan_key, HASH_ENTER, &found);
	entry->plan = plan;
	return plan;
}

/*
 * A rule of the user's has left nothing of a query.  What is left refers to no relation, so that nothing
 * would tell the plan of the rule's end: it is not kept.
 */
static void
refuse_rule(SPIPlanPtr plan, Oid relid)
{
	HASH_SEQ_STATUS status;
	PlanEntry  *entry;
	char	   *name = get_rel_name(relid);

	hash_seq_init(&status, plans);
	while ((entry = hash_seq_search(&status)) != NULL)
		if (entry->plan == plan)
		{
			free_plan(plan);
			entry->plan = NULL;
		}
	ereport(ERROR,
			(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
			 errmsg("a rule of table \"%s\" keeps its rows from being marked", name ? name : "?"),
			 errdetail("A foreign key marks or restores them by an UPDATE, and the rule does something else instead."),
			 errhint("Drop the rule, or make a trigger of it.")));
}

/*
 * Run a query of ours as the owner of the table that it looks at.  Under a snapshot of the
 * whole transaction it sees what was committed since, as ri_PerformCheck() does, so that
 * nothing slips through.
 */
void
sau_keyquery_run(SauKeyQuery kind, Oid relid, const SauKey *key, Datum *values, int expected)
{
	Oid			looked_at = key == NULL ? (kind == SAU_KEY_LOCK ? relid : marked_by(relid)) : sau_keyquery_hand_is_parent(kind) ? key->child : key->parent;
	Oid			save_user;
	int			save_context;
	int			ret;
	Snapshot	test = InvalidSnapshot;
	Snapshot	crosscheck = InvalidSnapshot;
	SPIPlanPtr	plan;

	GetUserIdAndSecContext(&save_user, &save_context);
	SetUserIdAndSecContext(sau_compat_relation_owner(looked_at), save_context | SECURITY_LOCAL_USERID_CHANGE | SECURITY_NOFORCE_RLS);
	/* before its columns are named: somebody may be about to rename them */
	LockRelationOid(looked_at, kind == SAU_KEY_DEAD_PARENT ? AccessShareLock :
					kind == SAU_KEY_MARK || kind == SAU_KEY_UNMARK ? RowExclusiveLock : RowShareLock);
	plan = plan_for(kind, relid, key);
	if (IsolationUsesXactSnapshot())
	{
		CommandCounterIncrement();
		test = GetLatestSnapshot();
		crosscheck = GetTransactionSnapshot();
	}
	running++;
	PG_TRY();
	{
		ret = SPI_execute_snapshot(plan, values, NULL, test, crosscheck, false, true, 0);
	}
	PG_FINALLY();
	{
		running--;
	}
	PG_END_TRY();
	SetUserIdAndSecContext(save_user, save_context);
	if (running == 0)
		free_retired();
	if (ret == SPI_OK_REWRITTEN)
		refuse_rule(plan, looked_at);
	if (ret != expected)
		elog(ERROR, "SPI_execute_snapshot failed: %s", SPI_result_code_string(ret));
}

/* ---- errors ---- */

static bool
may_show(Oid relid)
{
	return pg_class_aclcheck(relid, GetUserId(), ACL_SELECT) == ACLCHECK_OK &&
		check_enable_rls(relid, InvalidOid, true) != RLS_ENABLED;
}

static char *
column_list(Oid relid, const AttrNumber *atts, int n)
{
	StringInfoData list;

	initStringInfo(&list);
	for (int i = 0; i < n; i++)
		appendStringInfo(&list, "%s%s", i > 0 ? ", " : "", get_attname(relid, atts[i], false));
	return list.data;
}

/* Name the key in the error's fields, as ri_ReportViolation() does: clients read them. */
static int
err_key(const SauKey *key)
{
	err_generic_string(PG_DIAG_SCHEMA_NAME, get_namespace_name(get_rel_namespace(key->child)));
	err_generic_string(PG_DIAG_TABLE_NAME, get_rel_name(key->child));
	return err_generic_string(PG_DIAG_CONSTRAINT_NAME, key->name);
}

void
sau_keyquery_refuse_referred(const SauKey *key, Oid relid, char *value)
{
	ereport(ERROR,
			(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
			 err_key(key),
			 errmsg("update or delete on table \"%s\" violates foreign key constraint \"%s\" on table \"%s\"",
					get_rel_name(relid), key->name, get_rel_name(key->child)),
			 may_show(relid) ?
			 errdetail("Key (%s)=(%s) is still referenced from live rows of table \"%s\".",
					   column_list(relid, key->parent_atts, key->n), value, get_rel_name(key->child)) :
			 errdetail("Key is still referenced from live rows of table \"%s\".", get_rel_name(key->child))));
}

/* Two rows that went together may each wait for the other: only one UPDATE brings both back. */
void
sau_keyquery_refuse_dead_parent(const SauKey *key, Oid relid, char *value, bool is_restore)
{
	ereport(ERROR,
			(errcode(ERRCODE_FOREIGN_KEY_VIOLATION),
			 err_key(key),
			 errmsg("insert or update on table \"%s\" violates foreign key constraint \"%s\"",
					get_rel_name(relid), key->name),
			 may_show(relid) ?
			 errdetail("Key (%s)=(%s) is that of a deleted row of table \"%s\".",
					   column_list(relid, key->child_atts, key->n), value, get_rel_name(key->parent)) :
			 errdetail("Key is that of a deleted row of table \"%s\".", get_rel_name(key->parent)),
			 is_restore ?
			 errhint("Restore the row of \"%s\" first, with softaudit.restore(), or all that were deleted together by one UPDATE that clears their column.", get_rel_name(key->parent)) :
			 errhint("Restore the row of \"%s\" first, with softaudit.restore().", get_rel_name(key->parent))));
}
