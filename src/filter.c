/*
 * filter.c
 *		What queries see of soft-deleted tables.
 *
 * Step of the path: a query was parsed and rewritten and is about to be planned; this
 * file changes it so that it sees live rows only, and has a DELETE mark rows (mark.c).
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

#include "catalog/pg_class.h"
#include "catalog/pg_language.h"
#include "catalog/pg_proc.h"
#include "miscadmin.h"
#include "nodes/makefuncs.h"
#include "nodes/nodeFuncs.h"
#include "optimizer/clauses.h"
#include "optimizer/optimizer.h"
#include "optimizer/paths.h"
#include "optimizer/planner.h"
#include "parser/parsetree.h"
#include "softaudit.h"
#include "utils/lsyscache.h"
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

static void filter_query(Query *query, FilterContext *ctx);

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
	if (IsA(node, JoinExpr) && ((JoinExpr *) node)->isNatural)
		/* what NATURAL compares is no mention: nobody wrote the column */
		return mention_walker(((JoinExpr *) node)->larg, context) || mention_walker(((JoinExpr *) node)->rarg, context);
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
			return shown->show == SAU_SHOW_ALL ? NULL : sau_mark_test(marker, rti, IS_NOT_NULL);
	}

	if (is_target && query->commandType == CMD_DELETE && !sau_guc_hard_delete)
		return sau_mark_test(marker, rti, IS_NULL);
	if (is_target && query->commandType == CMD_UPDATE)
	{
		Node	   *raw = sau_mark_assigned(query->targetList, marker->attno);
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
			return (Node *) makeBoolExpr(OR_EXPR, list_make2(test, sau_mark_test(marker, rti, IS_NULL)), -1);
		}
		return sau_mark_test(marker, rti, IS_NULL);
	}
	if (is_mentioned(query, rti, marker->attno))
		return NULL;
	if (is_target && query->commandType == CMD_MERGE)
		return sau_mark_test(marker, rti, IS_NULL);
	switch (show)
	{
		case SAU_SHOW_ALL:
			return NULL;
		case SAU_SHOW_DELETED:
			return sau_mark_test(marker, rti, IS_NOT_NULL);
		case SAU_SHOW_LIVE:
			break;
	}
	return sau_mark_test(marker, rti, IS_NULL);
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
	{
		sau_mark_on_conflict(query, target);
		if (sau_compat_is_conflict_select(query->onConflict))
		{
			MentionContext context = {query, query->resultRelation, target->attno, 0};

			sau_mark_conflict_select(query, target,
									 mention_walker(query->onConflict->onConflictWhere, &context) ? SAU_SHOW_ALL : ctx->show);
		}
	}
	if (sau_guc_hard_delete)
		return;
	if (query->commandType == CMD_DELETE)
		sau_mark_delete(query, target);
	else if (query->commandType == CMD_MERGE)
		sau_mark_merge(query, target, target_filtered);
}

/* ---- functions in FROM ---- */

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
				get_func_namespace(call->funcid) == sau_objects_schema(true))
			{
				char	   *name = get_func_name(call->funcid);

				if (strcmp(name, "with_deleted") == 0 || strcmp(name, "only_deleted") == 0)
				{
					Shown	   *shown = palloc(sizeof(Shown));

					shown->query = sau_shown_expand(query, rti, rte, call);
					shown->show = name[0] == 'w' ? SAU_SHOW_ALL : SAU_SHOW_DELETED;
					ctx->shown = lappend(ctx->shown, shown);
					ctx->by_role |= shown->query->hasRowSecurity;
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
			get_rel_namespace(rte->relid) == sau_objects_schema(true);
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
	if (sau_exempt_is_key_query(query_string, parse))
		ctx.is_open = true;
	else
	{
		ctx.params = boundParams;
		ctx.show = sau_exempt_shown_now();
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
	if (sau_exempt_shown_now() == SAU_SHOW_ALL || (current && current->is_open))
		return;
	if (current && list_member_oid(current->exempt, rte->relid))
		return;
	ereport(ERROR,
			(errcode(ERRCODE_INTERNAL_ERROR),
			 errmsg("softaudit: unfiltered access to soft-deleted table \"%s\"", get_rel_name(rte->relid)),
			 errhint("This is a defect of softaudit: please report it with the query. SET softaudit.show_deleted = on for a query that may see deleted rows.")));
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
