/*
 * exempt.c
 *		Who sees deleted rows without asking: foreign keys, dumps, walsenders.
 *
 * Step of the path: filter.c asks before it changes a query, and module.c tells of utility
 * commands, which have PostgreSQL run queries of its own, or read tables without a plan.
 */
#include "postgres.h"

#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "commands/copy.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "parser/parsetree.h"
#include "replication/walsender.h"
#include "softaudit.h"
#include "utils/rel.h"

/* Within a utility command that has PostgreSQL check foreign keys by queries. */
static int	in_ddl = 0;

/* The query of the CREATE TABLE AS that began last; it may be gone by now, and is compared only. */
const Node *sau_collected_query = NULL;

/* The text of a query of the life cycle's while it runs; told by its place, as a key's is. */
const char *sau_exempt_own_text = NULL;

/* synchronize_seqscans was turned off by hand, as a dump does it. */
static bool dump_setting = false;

/* ---- who is not filtered ---- */

static bool
starts_with(const char *text, const char *start)
{
	return strncmp(text, start, strlen(start)) == 0;
}

/*
 * Is this one of PostgreSQL's own foreign-key queries (ri_triggers.c)?  The flag alone would let
 * through what users' triggers do within a cascade, so the text counts, too: it quotes
 * all names.  RI_Initial_Check() and RI_PartitionRemove_Check() run without the flag.
 */
static bool
has_key_text(const char *text)
{
	if (InNoForceRLSOperation())
		return (starts_with(text, "SELECT 1 FROM ONLY \"") || starts_with(text, "SELECT 1 FROM \"") ||
				/* of a key with PERIOD */
				starts_with(text, "SELECT 1 FROM (SELECT \"") ||
				starts_with(text, "DELETE FROM ONLY \"") || starts_with(text, "DELETE FROM \"") ||
				starts_with(text, "UPDATE ONLY \"") || starts_with(text, "UPDATE \"")) &&
			strstr(text, " OPERATOR(") != NULL && strstr(text, "$1") != NULL;
	return in_ddl > 0 && starts_with(text, "SELECT fk.\"") &&
		(strstr(text, "\" fk LEFT OUTER JOIN ") != NULL || strstr(text, "\" fk JOIN ") != NULL);
}

/*
 * Foreign keys act on a table as its owner, and on one table.  What else looks like their queries,
 * in a trigger that a cascade fires, is not to delete rows of somebody else's table for good.
 */
static bool
is_owners(Query *query)
{
	return query->cteList == NIL && !query->hasSubLinks &&
		(query->resultRelation == 0 ||
		 (list_length(query->rtable) == 1 &&
		  sau_compat_relation_owner(rt_fetch(query->resultRelation, query->rtable)->relid) == GetUserId()));
}

/* Is this a query which sees all rows: a foreign key's, PostgreSQL's or ours, or the life cycle's? */
bool
sau_exempt_is_key_query(const char *text, Query *query)
{
	return text != NULL && (text == sau_exempt_own_text || sau_keyquery_is_ours(text) || (has_key_text(text) && is_owners(query)));
}

/*
 * A dump must be complete.  pg_dump tells itself by what it sets in every mode: a
 * read-only snapshot for the whole session, and scans that start at the first block.
 */
static bool
is_dump(void)
{
	return dump_setting && !synchronize_seqscans && XactReadOnly && IsolationUsesXactSnapshot();
}

/* What queries of this session see now, unless they say for themselves. */
SauShow
sau_exempt_shown_now(void)
{
	return (am_walsender || is_dump()) ? SAU_SHOW_ALL : (SauShow) sau_guc_show_deleted;
}

/* ---- utility commands ---- */

/*
 * COPY t TO reads the table without a plan: make it COPY (SELECT ...) TO, which gives
 * the same columns.  Returns the statement to run, which may be the one that came in.
 */
static PlannedStmt *
copy_as_query(PlannedStmt *pstmt)
{
	CopyStmt   *copy = (CopyStmt *) pstmt->utilityStmt;
	SelectStmt *select;
	Relation	relation;
	Oid			relid;
	List	   *names;
	ListCell   *lc;

	if (copy->is_from || copy->relation == NULL || sau_exempt_shown_now() == SAU_SHOW_ALL)
		return pstmt;
	relid = RangeVarGetRelid(copy->relation, AccessShareLock, true);
	if (!OidIsValid(relid) || sau_marker_get(relid) == NULL)
		return pstmt;
	relation = table_open(relid, NoLock);
	if (relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE && !SAU_COMPAT_COPIES_PARTITIONED)
	{
		table_close(relation, NoLock);
		return pstmt;
	}
	names = copy->attlist;
	if (names != NIL)
	{
		/* what COPY refuses and SELECT would not: generated and system columns, one named twice */
		(void) CopyGetAttnums(RelationGetDescr(relation), relation, names);
	}
	else
	{
		for (int i = 0; i < RelationGetNumberOfAttributes(relation); i++)
		{
			Form_pg_attribute att = TupleDescAttr(RelationGetDescr(relation), i);

			if (!att->attisdropped && att->attgenerated == '\0')
				names = lappend(names, makeString(pstrdup(NameStr(att->attname))));
		}
	}

	pstmt = copyObject(pstmt);
	copy = (CopyStmt *) pstmt->utilityStmt;
	select = makeNode(SelectStmt);
	foreach(lc, names)
	{
		ResTarget  *target = makeNode(ResTarget);
		ColumnRef  *column = makeNode(ColumnRef);

		column->fields = list_make1(copyObject(lfirst(lc)));
		column->location = -1;
		target->val = (Node *) column;
		target->location = -1;
		select->targetList = lappend(select->targetList, target);
	}
	copy->relation->inh = relation->rd_rel->relkind == RELKIND_PARTITIONED_TABLE;
	select->fromClause = list_make1(copy->relation);
	copy->relation = NULL;
	copy->attlist = NIL;
	copy->query = (Node *) select;
	table_close(relation, NoLock);
	return pstmt;
}

/*
 * A utility command begins.  Returns the statement to run; "save" is for
 * sau_exempt_utility_end(), which is to be called on an error, too.
 */
PlannedStmt *
sau_exempt_utility_begin(PlannedStmt *pstmt, int *save)
{
	Node	   *tree = pstmt->utilityStmt;

	*save = in_ddl;
	switch (nodeTag(tree))
	{
		case T_AlterTableStmt:
		case T_CreateStmt:
		case T_DropStmt:
			in_ddl++;
			break;
		case T_CopyStmt:
			if (OidIsValid(sau_marker_function()))
				return copy_as_query(pstmt);
			break;
		case T_TruncateStmt:
			sau_marker_check_truncate((TruncateStmt *) tree);
			break;
		case T_CreateTableAsStmt:
			sau_collected_query = ((CreateTableAsStmt *) tree)->query;
			break;
		default:
			break;
	}
	return pstmt;
}

void
sau_exempt_utility_end(int save)
{
	in_ddl = save;
}

/* SET, or RESET: a setting that pg_dump gives itself, and hardly anybody else. */
void
sau_exempt_set_command(VariableSetStmt *set)
{
	if (set->name && pg_strcasecmp(set->name, "synchronize_seqscans") == 0)
		dump_setting = set->kind == VAR_SET_VALUE;
}
