/*
 * filter.c
 *		What queries see of soft-deleted tables, and DELETE as a mark.
 *
 * Step of the path: a query was parsed and rewritten and is about to be planned; this
 * file changes it so that it sees live rows only, and a DELETE marks rows.
 *
 * In the planner hook every reference to a marked relation is replaced, where it stands
 * in the join tree, by FromExpr([reference], column IS NULL): right beneath every outer
 * join, open to every index, and without a demand for a privilege.  Set-returning SQL
 * functions are inlined here, before the planner would, or what they read would escape.
 *
 * Not filtered: PostgreSQL's own foreign-key queries, pg_dump, walsenders, references
 * whose own conditions mention the column, and what the settings show.
 *
 * The net: when the planner makes paths for a marked relation that has no such
 * condition and was not exempted, it is an error rather than a leak.
 */
#include "postgres.h"

#include "access/sysattr.h"
#include "access/table.h"
#include "access/tableam.h"
#include "access/xact.h"
#include "catalog/namespace.h"
#include "catalog/pg_class.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "catalog/pg_type.h"
#include "commands/copy.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/paths.h"
#include "optimizer/planner.h"
#include "parser/parse_func.h"
#include "parser/parsetree.h"
#include "replication/walsender.h"
#include "rewrite/rewriteHandler.h"
#include "softaudit.h"
#include "storage/lmgr.h"
#include "utils/builtins.h"
#include "utils/lsyscache.h"
#include "utils/rel.h"
#include "utils/syscache.h"
#include "utils/typcache.h"

/* A query that with_deleted() or only_deleted() became. */
typedef struct Shown
{
	Query	   *query;
	SauShow		show;
} Shown;

/* One call of the planner. */
typedef struct FilterContext
{
	PlannerInfo *root;			/* what inlining asks for; NULL until it is needed */
	ParamListInfo params;
	SauShow		show;
	bool		found;			/* a marked relation: the plan depends on the settings */
	bool		is_open;		/* nothing is filtered */
	bool		by_role;		/* row-level security: the plan is for one role */
	List	   *roots;			/* relations that say so for their partitions */
	List	   *exempt;			/* relations with a reference that is not filtered */
	List	   *shown;			/* of Shown */
} FilterContext;

static planner_hook_type prev_planner = NULL;
static set_rel_pathlist_hook_type prev_set_rel_pathlist = NULL;

/* The planner call that is under way, for the net; NULL where nothing marked was found. */
static FilterContext *current = NULL;

/* Within a utility command that has PostgreSQL check foreign keys by queries. */
static int	in_ddl = 0;

/* The query of the CREATE TABLE AS that began last; it may be gone by now, and is compared only. */
const Node *sau_collected_query = NULL;

/* synchronize_seqscans was turned off by hand, as a dump does it. */
static bool dump_setting = false;

static void filter_query(Query *query, FilterContext *ctx);

/* ---- who is not filtered ---- */

/*
 * Is this one of PostgreSQL's own foreign-key queries (ri_triggers.c), or one of ours?  The flag alone
 * would let through what users' triggers do within a cascade, so the text counts, too.
 * RI_Initial_Check() and RI_PartitionRemove_Check() run without the flag.
 */
static bool
is_foreign_key_query(const char *text)
{
	if (text == NULL)
		return false;
	if (InNoForceRLSOperation())
		return strncmp(text, SAU_KEY_QUERY, strlen(SAU_KEY_QUERY)) == 0 ||
			((strncmp(text, "SELECT 1 FROM ", 14) == 0 ||
			  strncmp(text, "DELETE FROM ", 12) == 0 ||
			  strncmp(text, "UPDATE ", 7) == 0) &&
			 strstr(text, " OPERATOR(") != NULL);
	return in_ddl > 0 && strncmp(text, "SELECT fk.", 10) == 0;
}

/*
 * Foreign keys act on a table as its owner.  What else looks like their queries, in a
 * trigger that a cascade fires, is not to delete rows of somebody else's table for good.
 */
static bool
is_owners(Query *query)
{
	return query->resultRelation == 0 ||
		sau_compat_relation_owner(rt_fetch(query->resultRelation, query->rtable)->relid) == GetUserId();
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
static SauShow
shown_now(void)
{
	return (am_walsender || is_dump()) ? SAU_SHOW_ALL : (SauShow) sau_guc_show_deleted;
}

/* ---- what a reference's own conditions say ---- */

typedef struct MentionContext
{
	Query	   *query;			/* the one the reference stands in */
	int			rti;
	AttrNumber	attno;
	int			sublevels_up;
} MentionContext;

static bool
mention_walker(Node *node, MentionContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;
		RangeTblEntry *rte;
		List	   *exprs;

		if (var->varlevelsup != context->sublevels_up)
			return false;
		if (var->varno == context->rti)
			return var->varattno == context->attno;
		if (var->varno <= 0 || var->varno > list_length(context->query->rtable))
			return false;
		/* a column of a join, or one that is grouped by, stands for another */
		rte = rt_fetch(var->varno, context->query->rtable);
		exprs = sau_compat_alias_exprs(rte);
		if (var->varattno > 0 && var->varattno <= list_length(exprs))
		{
			MentionContext below = *context;

			below.sublevels_up = 0;
			return mention_walker(list_nth(exprs, var->varattno - 1), &below);
		}
		return false;
	}
	if (IsA(node, RowExpr) && ((RowExpr *) node)->row_typeid != RECORDOID &&
		((RowExpr *) node)->row_format == COERCE_IMPLICIT_CAST)
	{
		ListCell   *lc;

		/* a view's whole row, as the rewriter spells it out: no more a mention than a table's */
		foreach(lc, ((RowExpr *) node)->args)
			if (!IsA(lfirst(lc), Var) && mention_walker(lfirst(lc), context))
				return true;
		return false;
	}
	if (IsA(node, Query))
	{
		bool		result;

		context->sublevels_up++;
		result = query_tree_walker((Query *) node, mention_walker, context, QTW_IGNORE_JOINALIASES);
		context->sublevels_up--;
		return result;
	}
	return expression_tree_walker(node, mention_walker, context);
}

/* Do the query's own WHERE, ON or HAVING mention the column of this reference? */
static bool
is_mentioned(Query *query, int rti, AttrNumber attno)
{
	MentionContext context = {query, rti, attno, 0};

	return mention_walker((Node *) query->jointree, &context) ||
		mention_walker(query->havingQual, &context) ||
		mention_walker(sau_compat_merge_condition(query), &context);
}

/* ---- conditions ---- */

static Node *
column_test(const SauMarker *marker, int rti, NullTestType type)
{
	NullTest   *test = makeNode(NullTest);

	test->arg = (Expr *) makeVar(rti, marker->attno, marker->typid, marker->typmod, InvalidOid, 0);
	test->nulltesttype = type;
	test->argisrow = false;
	test->location = -1;
	return (Node *) test;
}

/* What an expression is beneath casts. */
static Node *
strip_casts(Node *node)
{
	for (;;)
	{
		if (node && IsA(node, RelabelType))
			node = (Node *) ((RelabelType *) node)->arg;
		else if (node && IsA(node, CoerceViaIO))
			node = (Node *) ((CoerceViaIO *) node)->arg;
		else if (node && IsA(node, FuncExpr) && ((FuncExpr *) node)->args != NIL &&
				 ((FuncExpr *) node)->funcformat != COERCE_EXPLICIT_CALL)
			node = linitial(((FuncExpr *) node)->args);
		else
			return node;
	}
}

/* What a target list assigns to a column, or NULL. */
static Node *
assigned(List *targetlist, AttrNumber attno)
{
	ListCell   *lc;

	foreach(lc, targetlist)
	{
		TargetEntry *tle = lfirst_node(TargetEntry, lc);

		if (!tle->resjunk && tle->resno == attno)
			return (Node *) tle->expr;
	}
	return NULL;
}

/*
 * The condition that a reference gets, or NULL if it is left alone.  A target of DELETE
 * is filtered whatever is set or mentioned, so that a row keeps its first stamp.  An
 * UPDATE that assigns NULL to the column is a restore and reaches deleted rows.
 */
static Node *
condition_of(Query *query, int rti, const SauMarker *marker, FilterContext *ctx)
{
	bool		is_target = rti == query->resultRelation;
	SauShow		show = ctx->show;
	ListCell   *lc;

	foreach(lc, ctx->shown)
	{
		Shown	   *shown = lfirst(lc);

		if (shown->query == query)
			return shown->show == SAU_SHOW_ALL ? NULL : column_test(marker, rti, IS_NOT_NULL);
	}

	if (is_target && query->commandType == CMD_DELETE && !sau_guc_hard_delete)
		return column_test(marker, rti, IS_NULL);
	if (is_target && query->commandType == CMD_UPDATE)
	{
		Node	   *raw = assigned(query->targetList, marker->attno);
		Node	   *value = strip_casts(raw);

		if (value && IsA(value, Const) && ((Const *) value)->constisnull)
			return NULL;
		if (is_mentioned(query, rti, marker->attno))
			return NULL;
		if (value && IsA(value, Param) && ((Param *) value)->paramkind == PARAM_EXTERN)
		{
			NullTest   *test = makeNode(NullTest);

			test->arg = (Expr *) copyObject(raw);
			test->nulltesttype = IS_NULL;
			test->argisrow = false;
			test->location = -1;
			ctx->exempt = lappend_oid(ctx->exempt, marker->relid);
			return (Node *) makeBoolExpr(OR_EXPR, list_make2(test, column_test(marker, rti, IS_NULL)), -1);
		}
		return column_test(marker, rti, IS_NULL);
	}
	if (is_mentioned(query, rti, marker->attno))
		return NULL;
	if (is_target && query->commandType == CMD_MERGE)
		return column_test(marker, rti, IS_NULL);
	switch (show)
	{
		case SAU_SHOW_ALL:
			return NULL;
		case SAU_SHOW_DELETED:
			return column_test(marker, rti, IS_NOT_NULL);
		case SAU_SHOW_LIVE:
			break;
	}
	return column_test(marker, rti, IS_NULL);
}

/* Put the conditions where their references stand in a join tree. */
static Node *
place_conditions(Node *jtnode, Node **conditions)
{
	if (jtnode == NULL)
		return NULL;
	if (IsA(jtnode, RangeTblRef))
	{
		Node	   *condition = conditions[((RangeTblRef *) jtnode)->rtindex];

		return condition ? (Node *) makeFromExpr(list_make1(jtnode), condition) : jtnode;
	}
	if (IsA(jtnode, FromExpr))
	{
		ListCell   *lc;

		foreach(lc, ((FromExpr *) jtnode)->fromlist)
			lfirst(lc) = place_conditions(lfirst(lc), conditions);
	}
	else if (IsA(jtnode, JoinExpr))
	{
		JoinExpr   *join = (JoinExpr *) jtnode;

		join->larg = place_conditions(join->larg, conditions);
		join->rarg = place_conditions(join->rarg, conditions);
	}
	return jtnode;
}

/*
 * MERGE joins its target by itself, and wants its source to be a bare reference: there
 * the condition takes the way of row-level security.
 */
static void
place_merge_conditions(Query *query, Node **conditions)
{
	ListCell   *lc;
	int			target = query->resultRelation;
	RangeTblEntry *rte = rt_fetch(target, query->rtable);

	if (conditions[target])
		rte->securityQuals = lappend(rte->securityQuals, conditions[target]);
	conditions[target] = NULL;
	foreach(lc, query->jointree->fromlist)
	{
		Node	   *jtnode = lfirst(lc);

		if (IsA(jtnode, RangeTblRef) && conditions[((RangeTblRef *) jtnode)->rtindex])
		{
			int			rti = ((RangeTblRef *) jtnode)->rtindex;

			rte = rt_fetch(rti, query->rtable);
			rte->securityQuals = lappend(rte->securityQuals, conditions[rti]);
			conditions[rti] = NULL;
		}
	}
	place_conditions((Node *) query->jointree, conditions);
}

/* ---- DELETE as a mark ---- */

static Oid
our_function(const char *name, int nargs, const Oid *types)
{
	return LookupFuncName(list_make2(makeString(SAU_SCHEMA), makeString(pstrdup(name))), nargs, types, false);
}

/*
 * The assignment of a stamp: a subquery without references, so that it is evaluated
 * once a statement and all its rows get the same.
 */
static TargetEntry *
stamp_entry(Query *query, const SauMarker *marker)
{
	bool		is_utc = marker->typid == TIMESTAMPOID;
	Oid			funcid = our_function(is_utc ? "deletion_stamp_utc" : "deletion_stamp", 0, NULL);
	Oid			typid = is_utc ? TIMESTAMPOID : TIMESTAMPTZOID;
	Query	   *sub = makeNode(Query);
	SubLink    *sublink = makeNode(SubLink);

	sub->commandType = CMD_SELECT;
	sub->querySource = QSRC_ORIGINAL;
	sub->canSetTag = true;
	sub->jointree = makeFromExpr(NIL, NULL);
	sub->targetList = list_make1(makeTargetEntry((Expr *) makeFuncExpr(funcid, typid, NIL, InvalidOid, InvalidOid,
																		 COERCE_EXPLICIT_CALL),
												 1, pstrdup("stamp"), false));
	sub->stmt_location = -1;
	sublink->subLinkType = EXPR_SUBLINK;
	sublink->subselect = (Node *) sub;
	sublink->location = -1;
	query->hasSubLinks = true;
	return makeTargetEntry((Expr *) sublink, marker->attno,
						   get_attname(marker->relid, marker->attno, false), false);
}

typedef struct ReturningContext
{
	int			rti;
	Oid			relid;
	AttrNumber	attno;
	int			sublevels_up;
} ReturningContext;

static Node *old_var(Var *var, ReturningContext *context);

/* A whole row, column by column. */
static Node *
old_row(Var *var, ReturningContext *context)
{
	Relation	relation = table_open(context->relid, NoLock);
	TupleDesc	desc = RelationGetDescr(relation);
	RowExpr    *row = makeNode(RowExpr);

	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);

		row->args = lappend(row->args, att->attisdropped ? (Node *) makeNullConst(INT4OID, -1, InvalidOid) :
							old_var(makeVar(var->varno, i + 1, att->atttypid, att->atttypmod, att->attcollation, var->varlevelsup), context));
	}
	table_close(relation, NoLock);
	row->row_typeid = var->vartype;
	row->row_format = COERCE_IMPLICIT_CAST;
	row->location = -1;
	return (Node *) row;
}

/* A reference to the target in RETURNING of a DELETE: all columns are unchanged, and the marker was NULL. */
static Node *
old_var(Var *var, ReturningContext *context)
{
	Node	   *old = sau_compat_returning_old(var);

	if (old)
		return old;
	if (var->varattno == InvalidAttrNumber)
		return old_row(var, context);
	if (var->varattno == context->attno)
		return (Node *) makeNullConst(var->vartype, var->vartypmod, var->varcollid);
	return (Node *) copyObject(var);
}

static Node *
returning_mutator(Node *node, ReturningContext *context)
{
	if (node == NULL)
		return NULL;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		if (var->varno == context->rti && var->varlevelsup == context->sublevels_up)
			return old_var(var, context);
	}
	if (IsA(node, Query))
	{
		Query	   *result;

		context->sublevels_up++;
		result = query_tree_mutator((Query *) node, returning_mutator, context, 0);
		context->sublevels_up--;
		return (Node *) result;
	}
	return expression_tree_mutator(node, returning_mutator, context);
}

/* Tell the executor that the column is updated; the privilege asked for stays DELETE. */
static void
note_update(Query *query, RangeTblEntry *rte, const SauMarker *marker)
{
	sau_compat_add_updated_col(query, rte, marker->attno);
}

static void
convert_delete(Query *query, const SauMarker *marker)
{
	RangeTblEntry *rte = rt_fetch(query->resultRelation, query->rtable);
	ReturningContext context = {query->resultRelation, marker->relid, marker->attno, 0};

	query->commandType = CMD_UPDATE;
	query->targetList = list_make1(stamp_entry(query, marker));
	query->returningList = (List *) returning_mutator((Node *) query->returningList, &context);
	note_update(query, rte, marker);
}

static void
convert_merge(Query *query, const SauMarker *marker, bool is_filtered)
{
	ListCell   *lc;

	foreach(lc, query->mergeActionList)
	{
		MergeAction *action = lfirst_node(MergeAction, lc);
		TargetEntry *tle;

		if (action->commandType != CMD_DELETE)
			continue;
		tle = stamp_entry(query, marker);
		if (!is_filtered)
		{
			/* deleted rows may be among them: those keep their stamp */
			CoalesceExpr *coalesce = makeNode(CoalesceExpr);

			coalesce->coalescetype = marker->typid;
			coalesce->args = list_make2(makeVar(query->resultRelation, marker->attno, marker->typid, marker->typmod, InvalidOid, 0),
										tle->expr);
			coalesce->location = -1;
			tle->expr = (Expr *) coalesce;
		}
		action->commandType = CMD_UPDATE;
		action->targetList = list_make1(tle);
		note_update(query, rt_fetch(query->resultRelation, query->rtable), marker);
	}
}

/*
 * INSERT ... ON CONFLICT: the live-unique index is found without its predicate being
 * spelled, and a deleted row that a full index finds is not updated behind the
 * curtain, unless the statement restores it.
 */
static void
convert_on_conflict(Query *query, const SauMarker *marker)
{
	OnConflictExpr *oc = query->onConflict;
	int			rti = query->resultRelation;

	if (oc->arbiterElems != NIL)
		oc->arbiterWhere = make_and_qual(oc->arbiterWhere, column_test(marker, rti, IS_NULL));
	if (oc->action == ONCONFLICT_UPDATE)
	{
		Oid			types[2] = {BOOLOID, OIDOID};
		Node	   *value = assigned(oc->onConflictSet, marker->attno);
		Node	   *deleted = column_test(marker, rti, IS_NOT_NULL);
		Node	   *guard;

		if (value)
		{
			NullTest   *test = makeNode(NullTest);

			test->arg = (Expr *) copyObject(value);
			test->nulltesttype = IS_NOT_NULL;
			test->argisrow = false;
			test->location = -1;
			deleted = (Node *) makeBoolExpr(AND_EXPR, list_make2(deleted, test), -1);
		}
		guard = (Node *) makeFuncExpr(our_function("refuse_deleted", 2, types), BOOLOID,
									  list_make2(deleted,
												 makeConst(OIDOID, -1, InvalidOid, sizeof(Oid),
														   ObjectIdGetDatum(marker->relid), false, true)),
									  InvalidOid, InvalidOid, COERCE_EXPLICIT_CALL);
		oc->onConflictWhere = oc->onConflictWhere ?
			(Node *) makeBoolExpr(AND_EXPR, list_make2(guard, oc->onConflictWhere), -1) : guard;
	}
}

/* ---- one level of a query ---- */

static void
filter_level(Query *query, FilterContext *ctx)
{
	int			n = list_length(query->rtable);
	Node	  **conditions = palloc0((n + 1) * sizeof(Node *));
	const SauMarker *target = NULL;
	SauMarker	target_copy;
	bool		target_filtered = false;

	for (int rti = 1; rti <= n; rti++)
	{
		RangeTblEntry *rte = rt_fetch(rti, query->rtable);
		const SauMarker *found;
		SauMarker	marker;

		if (rte->rtekind != RTE_RELATION || (found = sau_marker_get(rte->relid)) == NULL)
			continue;
		/* a copy: what follows may take in messages */
		marker = *found;
		ctx->found = true;
		if (marker.root != rte->relid)
			ctx->roots = list_append_unique_oid(ctx->roots, marker.root);
		if (rti == query->resultRelation)
		{
			target_copy = marker;
			target = &target_copy;
			if (query->commandType == CMD_INSERT)
				continue;
		}
		conditions[rti] = condition_of(query, rti, &marker, ctx);
		if (conditions[rti] == NULL)
			ctx->exempt = list_append_unique_oid(ctx->exempt, rte->relid);
		else if (rti == query->resultRelation)
			target_filtered = true;
	}

	if (query->commandType == CMD_MERGE)
		place_merge_conditions(query, conditions);
	else
		place_conditions((Node *) query->jointree, conditions);

	if (target == NULL)
		return;
	if (query->commandType == CMD_INSERT && query->onConflict)
		convert_on_conflict(query, target);
	if (sau_guc_hard_delete)
		return;
	if (query->commandType == CMD_DELETE)
		convert_delete(query, target);
	else if (query->commandType == CMD_MERGE)
		convert_merge(query, target, target_filtered);
}

/* ---- functions in FROM ---- */

typedef struct ColumnsContext
{
	int			rti;
	int			sublevels_up;
	Bitmapset  *attnos;			/* by attno, zero for the whole row */
} ColumnsContext;

static bool
columns_walker(Node *node, ColumnsContext *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, Var))
	{
		Var		   *var = (Var *) node;

		if (var->varno == context->rti && var->varlevelsup == context->sublevels_up && var->varattno >= 0)
			context->attnos = bms_add_member(context->attnos, var->varattno);
		return false;
	}
	if (IsA(node, Query))
	{
		bool		result;

		context->sublevels_up++;
		result = query_tree_walker((Query *) node, columns_walker, context, 0);
		context->sublevels_up--;
		return result;
	}
	return expression_tree_walker(node, columns_walker, context);
}

/*
 * Make softaudit.with_deleted(NULL::t) and only_deleted(NULL::t) a subquery on the
 * table, which the planner pulls up: indexes and conditions reach it, and the caller's
 * privileges and row-level security hold.
 */
static void
show_table(Query *query, int rti, RangeTblEntry *rte, FuncExpr *call, SauShow show, FilterContext *ctx)
{
	Oid			relid = get_typ_typrelid(getBaseType(exprType(linitial(call->args))));
	ColumnsContext columns = {rti, 0, NULL};
	Relation	relation;
	TupleDesc	desc;
	Query	   *sub = makeNode(Query);
	RangeTblEntry *ref;
	RangeTblRef *rtr = makeNode(RangeTblRef);
	List	   *names = NIL;
	Shown	   *shown = palloc(sizeof(Shown));

	if (rte->funcordinality || list_length(rte->functions) != 1)
		ereport(ERROR,
				(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
				 errmsg("softaudit.%s() cannot be used WITH ORDINALITY or in ROWS FROM", get_func_name(call->funcid)),
				 errhint("Use row_number() OVER (), or make it a FROM item of its own.")));
	if (!OidIsValid(relid))
		ereport(ERROR,
				(errcode(ERRCODE_WRONG_OBJECT_TYPE),
				 errmsg("the argument of softaudit.%s() is not of a table's row type", get_func_name(call->funcid)),
				 errhint("Write NULL::t, where t is the table.")));
	LockRelationOid(relid, AccessShareLock);
	if (sau_marker_get(relid) == NULL)
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("table \"%s\" is not soft-deleted", get_rel_name(relid) ? get_rel_name(relid) : "?"),
				 errhint("Call softaudit.enable() for it.")));

	query_tree_walker(query, columns_walker, &columns, 0);
	relation = table_open(relid, NoLock);
	desc = RelationGetDescr(relation);

	ref = makeNode(RangeTblEntry);
	ref->rtekind = RTE_RELATION;
	ref->relid = relid;
	ref->relkind = relation->rd_rel->relkind;
	ref->rellockmode = AccessShareLock;
	ref->inh = true;
	ref->inFromCl = true;
	sub->rtable = list_make1(ref);
	sau_compat_ask_select(sub, ref);
	sub->commandType = CMD_SELECT;
	sub->querySource = QSRC_ORIGINAL;
	sub->canSetTag = true;
	sub->stmt_location = -1;
	rtr->rtindex = 1;
	sub->jointree = makeFromExpr(list_make1(rtr), NULL);
	for (int i = 0; i < desc->natts; i++)
	{
		Form_pg_attribute att = TupleDescAttr(desc, i);
		bool		wanted = bms_is_member(0, columns.attnos) || bms_is_member(i + 1, columns.attnos);
		Expr	   *expr;

		if (att->attisdropped)
			expr = (Expr *) makeNullConst(INT4OID, -1, InvalidOid);
		else if (!wanted)
			expr = (Expr *) makeNullConst(att->atttypid, att->atttypmod, att->attcollation);
		else
		{
			expr = (Expr *) makeVar(1, i + 1, att->atttypid, att->atttypmod, att->attcollation, 0);
			sau_compat_add_selected_col(sub, ref, i + 1);
		}
		names = lappend(names, makeString(pstrdup(att->attisdropped ? "" : NameStr(att->attname))));
		sub->targetList = lappend(sub->targetList, makeTargetEntry(expr, i + 1, pstrdup(NameStr(att->attname)), false));
	}
	ref->eref = makeAlias(RelationGetRelationName(relation), names);
	table_close(relation, NoLock);

	/* row-level security */
	sub = linitial_node(Query, QueryRewrite(sub));
	ctx->by_role |= sub->hasRowSecurity;

	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = sub;
	rte->security_barrier = false;
	shown->query = sub;
	shown->show = show;
	ctx->shown = lappend(ctx->shown, shown);
}

static bool
is_sql_function(Oid funcid)
{
	HeapTuple	tuple = SearchSysCache1(PROCOID, ObjectIdGetDatum(funcid));
	bool		result = false;

	if (HeapTupleIsValid(tuple))
	{
		result = ((Form_pg_proc) GETSTRUCT(tuple))->prolang == SQLlanguageId;
		ReleaseSysCache(tuple);
	}
	return result;
}

/* What the planner's own inlining needs to know of a planner call. */
static PlannerInfo *
inlining_root(FilterContext *ctx)
{
	if (ctx->root == NULL)
	{
		ctx->root = makeNode(PlannerInfo);
		ctx->root->glob = makeNode(PlannerGlobal);
		ctx->root->glob->boundParams = ctx->params;
		ctx->root->query_level = 1;
		ctx->root->planner_cxt = CurrentMemoryContext;
	}
	return ctx->root;
}

/* Expand a function in FROM, as preprocess_function_rtes() will; true if it is a subquery now. */
static bool
expand_function(Query *query, int rti, RangeTblEntry *rte, FilterContext *ctx)
{
	RangeTblFunction *rtfunc;
	FuncExpr   *call;
	Query	   *sub;
	ListCell   *lc;

	foreach(lc, rte->functions)
	{
		rtfunc = lfirst_node(RangeTblFunction, lc);
		if (IsA(rtfunc->funcexpr, FuncExpr) && ((FuncExpr *) rtfunc->funcexpr)->funcretset)
		{
			call = (FuncExpr *) rtfunc->funcexpr;
			if (call->funcid >= FirstNormalObjectId && list_length(call->args) == 1 &&
				get_func_namespace(call->funcid) == sau_registry_schema(true))
			{
				char	   *name = get_func_name(call->funcid);

				if (strcmp(name, "with_deleted") == 0 || strcmp(name, "only_deleted") == 0)
				{
					show_table(query, rti, rte, call, name[0] == 'w' ? SAU_SHOW_ALL : SAU_SHOW_DELETED, ctx);
					return true;
				}
			}
		}
	}
	if (list_length(rte->functions) != 1)
		return false;
	rtfunc = linitial(rte->functions);
	if (!IsA(rtfunc->funcexpr, FuncExpr))
		return false;
	call = (FuncExpr *) rtfunc->funcexpr;
	if (!call->funcretset || call->funcid < FirstNormalObjectId || !is_sql_function(call->funcid))
		return false;
	inlining_root(ctx)->parse = query;
	rte->functions = (List *) eval_const_expressions(ctx->root, (Node *) rte->functions);
	sub = sau_compat_inline_function(ctx->root, rte);
	if (sub == NULL)
		return false;
	rte->rtekind = RTE_SUBQUERY;
	rte->subquery = sub;
	rte->security_barrier = false;
	rte->funcordinality = false;
	return true;
}

/* ---- the walk ---- */

static bool
query_walker(Node *node, FilterContext *ctx)
{
	if (node == NULL)
		return false;
	if (IsA(node, Query))
	{
		filter_query((Query *) node, ctx);
		return false;
	}
	if (IsA(node, CommonTableExpr))
	{
		CommonTableExpr *cte = (CommonTableExpr *) node;

		/* SS_process_ctes() leaves it out: a function there is not inlined, and its text not read */
		if (cte->cterefcount == 0 && castNode(Query, cte->ctequery)->commandType == CMD_SELECT)
			return false;
	}
	return expression_tree_walker(node, query_walker, ctx);
}

static void
filter_query(Query *query, FilterContext *ctx)
{
	bool		has_marked = false;
	bool		is_nested = query->cteList != NIL || query->hasSubLinks;
	int			rti = 0;
	ListCell   *lc;

	check_stack_depth();
	foreach(lc, query->rtable)
	{
		RangeTblEntry *rte = lfirst_node(RangeTblEntry, lc);

		rti++;
		switch (rte->rtekind)
		{
			case RTE_RELATION:
				if (rte->relkind != RELKIND_VIEW && sau_marker_get(rte->relid))
					has_marked = true;
				break;
			case RTE_SUBQUERY:
				is_nested = true;
				break;
			case RTE_FUNCTION:
				if (expand_function(query, rti, rte, ctx))
					is_nested = true;
				break;
			default:
				break;
		}
	}
	if (is_nested)
		query_tree_walker(query, query_walker, ctx, QTW_IGNORE_JOINALIASES);
	if (has_marked)
		filter_level(query, ctx);
}

/* Does a query name a relation of ours? */
static bool
reads_log_walker(Node *node, void *context)
{
	if (node == NULL)
		return false;
	if (IsA(node, RangeTblEntry))
	{
		RangeTblEntry *rte = (RangeTblEntry *) node;

		return rte->rtekind == RTE_RELATION &&
			get_rel_namespace(rte->relid) == sau_registry_schema(true);
	}
	if (IsA(node, Query))
		return query_tree_walker((Query *) node, reads_log_walker, context,
								 QTW_EXAMINE_RTES_BEFORE | QTW_IGNORE_JOINALIASES);
	return expression_tree_walker(node, reads_log_walker, context);
}

static PlannedStmt *
plan(SAU_PLANNER_PARAMS)
{
	if (prev_planner)
		return prev_planner(SAU_PLANNER_ARGS);
	return standard_planner(SAU_PLANNER_ARGS);
}

static PlannedStmt *
softaudit_planner(SAU_PLANNER_PARAMS)
{
	FilterContext ctx = {0};
	FilterContext *save = current;
	PlannedStmt *result;
	bool		was_delete;
	bool		is_marking;
	ListCell   *lc;

	/*
	 * The planner leaves a query in pieces, and an event trigger's end, such as ours, has
	 * the statement copied after that: 17 can find a node there that was freed.
	 */
	if (unlikely((const Node *) parse == sau_collected_query))
		parse = copyObject(parse);
	if (!OidIsValid(sau_marker_function()))
		return plan(SAU_PLANNER_ARGS);
	/* what waits may open a partition, which the plan must know of */
	if (unlikely(sau_log_waiting > 0) && reads_log_walker((Node *) parse, NULL))
		sau_log_flush();
	was_delete = parse->commandType == CMD_DELETE;
	if (is_foreign_key_query(query_string) && is_owners(parse))
		ctx.is_open = true;
	else
	{
		ctx.params = boundParams;
		ctx.show = shown_now();
		filter_query(parse, &ctx);
	}
	is_marking = was_delete && parse->commandType == CMD_UPDATE;
	if (likely(!ctx.found && !ctx.is_open && ctx.root == NULL))
		return plan(SAU_PLANNER_ARGS);

	current = &ctx;
	PG_TRY();
	{
		result = plan(SAU_PLANNER_ARGS);
	}
	PG_FINALLY();
	{
		current = save;
	}
	PG_END_TRY();

	/* the tag, SPI's result and the count are those of a DELETE */
	if (is_marking)
		result->commandType = CMD_DELETE;
	if (ctx.found)
	{
		PlanInvalItem *item = makeNode(PlanInvalItem);

		item->cacheId = PROCOID;
		item->hashValue = sau_marker_plan_hash();
		result->invalItems = lappend(result->invalItems, item);
		foreach(lc, ctx.roots)
			result->relationOids = list_append_unique_oid(result->relationOids, lfirst_oid(lc));
	}
	/* the plan cache saw a function, and no table with policies */
	result->dependsOnRole |= ctx.by_role;
	if (ctx.root)
	{
		result->invalItems = list_concat(result->invalItems, ctx.root->glob->invalItems);
		result->dependsOnRole |= ctx.root->glob->dependsOnRole;
	}
	return result;
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

	if (copy->is_from || copy->relation == NULL || shown_now() == SAU_SHOW_ALL)
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
 * sau_filter_utility_end(), which is to be called on an error, too.
 */
PlannedStmt *
sau_filter_utility_begin(PlannedStmt *pstmt, int *save)
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
		case T_CreateTableAsStmt:
			sau_collected_query = ((CreateTableAsStmt *) tree)->query;
			break;
		default:
			break;
	}
	return pstmt;
}

void
sau_filter_utility_end(int save)
{
	in_ddl = save;
}

/* SET, or RESET: a setting that pg_dump gives itself, and hardly anybody else. */
void
sau_filter_set_command(VariableSetStmt *set)
{
	if (set->name && pg_strcasecmp(set->name, "synchronize_seqscans") == 0)
		dump_setting = set->kind == VAR_SET_VALUE;
}

/* ---- the net ---- */

static bool
has_condition(RelOptInfo *rel, Index rti, AttrNumber attno)
{
	ListCell   *lc;

	foreach(lc, rel->baserestrictinfo)
	{
		Expr	   *clause = lfirst_node(RestrictInfo, lc)->clause;

		if (IsA(clause, NullTest) && IsA(((NullTest *) clause)->arg, Var))
		{
			Var		   *var = (Var *) ((NullTest *) clause)->arg;

			if (var->varno == rti && var->varattno == attno)
				return true;
		}
	}
	return false;
}

static void
softaudit_set_rel_pathlist(PlannerInfo *root, RelOptInfo *rel, Index rti, RangeTblEntry *rte)
{
	const SauMarker *marker;

	if (prev_set_rel_pathlist)
		prev_set_rel_pathlist(root, rel, rti, rte);
	if (rte->rtekind != RTE_RELATION || IS_DUMMY_REL(rel) || !OidIsValid(sau_marker_function()))
		return;
	/* a child is filtered as its parent is; where that is not marked, it must be by itself */
	if (rel->reloptkind == RELOPT_OTHER_MEMBER_REL && root->append_rel_array &&
		root->append_rel_array[rti] && OidIsValid(root->append_rel_array[rti]->parent_reloid) &&
		sau_marker_get(root->append_rel_array[rti]->parent_reloid))
		return;
	marker = sau_marker_get(rte->relid);
	if (marker == NULL || has_condition(rel, rti, marker->attno))
		return;
	if (shown_now() == SAU_SHOW_ALL || (current && current->is_open))
		return;
	if (current && list_member_oid(current->exempt, rte->relid))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("softaudit: unfiltered access to soft-deleted table \"%s\"", get_rel_name(rte->relid)),
			 errhint("This is a defect of softaudit: please report it with the query. SET softaudit.show_deleted = on for a query that may see deleted rows.")));
}

PG_FUNCTION_INFO_V1(softaudit_refuse_deleted);

/*
 * softaudit.refuse_deleted(is_deleted boolean, relation oid): true for a live row;
 * raises unique_violation for a deleted one, which INSERT ... ON CONFLICT DO UPDATE must
 * not change.
 */
Datum
softaudit_refuse_deleted(PG_FUNCTION_ARGS)
{
	if (!PG_ARGISNULL(0) && PG_GETARG_BOOL(0))
	{
		Oid			relid = PG_GETARG_OID(1);
		char	   *name = get_rel_name(relid);

		ereport(ERROR,
				(errcode(ERRCODE_UNIQUE_VIOLATION),
				 name ? err_generic_string(PG_DIAG_SCHEMA_NAME, get_namespace_name(get_rel_namespace(relid))) : 0,
				 name ? err_generic_string(PG_DIAG_TABLE_NAME, name) : 0,
				 errmsg("a deleted row of table \"%s\" has this key", name ? name : "?"),
				 errdetail("ON CONFLICT found a row that is soft-deleted, in a unique index that counts deleted rows."),
				 errhint("Bring the row back with softaudit.restore(), or remove it with softaudit.purge().")));
	}
	PG_RETURN_BOOL(true);
}

PG_FUNCTION_INFO_V1(softaudit_show_deleted);

/*
 * softaudit.with_deleted(anyelement) and only_deleted(anyelement): the planner hook
 * makes a subquery of either in FROM, so the function itself is never called there.
 */
Datum
softaudit_show_deleted(PG_FUNCTION_ARGS)
{
	ereport(ERROR,
			(errcode(ERRCODE_FEATURE_NOT_SUPPORTED),
			 errmsg("softaudit.%s() was called outside of FROM, or before softaudit was loaded",
					get_func_name(fcinfo->flinfo->fn_oid)),
			 errhint("Write SELECT ... FROM softaudit.with_deleted(NULL::t). The library is loaded now: run the statement again.")));
}

/* Set the hooks; called once when the library is loaded. */
void
sau_filter_init(void)
{
	prev_planner = planner_hook;
	planner_hook = softaudit_planner;
	prev_set_rel_pathlist = set_rel_pathlist_hook;
	set_rel_pathlist_hook = softaudit_set_rel_pathlist;
}
