/*
 * hint_probe.c
 *		For test/t/020_hooks.pl: a library that hooks the planner as those do that take hints from comments.
 *
 * In a query with the comment "SeqScan" it plans with enable_indexscan off and replaces the paths of
 * each table by a scan of its own making; it keeps a nesting level, which an error must bring
 * back to zero, and the identifier of the query that it planned last.
 */
#include "postgres.h"

#include "fmgr.h"
#include "optimizer/pathnode.h"
#include "optimizer/paths.h"
#include "optimizer/planner.h"
#include "utils/builtins.h"
#include "utils/guc.h"

PG_MODULE_MAGIC;

void		_PG_init(void);

static planner_hook_type prev_planner = NULL;
static set_rel_pathlist_hook_type prev_set_rel_pathlist = NULL;
static int	nesting = 0;
static bool hinted = false;
static int64 last_query_id = 0;
static int64 planned = 0;

static PlannedStmt *
#if PG_VERSION_NUM >= 190000
probe_planner(Query *parse, const char *query_string, int cursor_options, ParamListInfo params, ExplainState *es)
#define PROBE_ARGS parse, query_string, cursor_options, params, es
#else
probe_planner(Query *parse, const char *query_string, int cursor_options, ParamListInfo params)
#define PROBE_ARGS parse, query_string, cursor_options, params
#endif
{
	PlannedStmt *result;
	bool		outer = hinted;
	int			level = NewGUCNestLevel();

	last_query_id = (int64) parse->queryId;
	planned++;
	nesting++;
	hinted = query_string && strstr(query_string, "/*+ SeqScan */") != NULL;
	PG_TRY();
	{
		if (hinted)
			set_config_option("enable_indexscan", "off", PGC_USERSET, PGC_S_SESSION, GUC_ACTION_SAVE, true, 0, false);
		result = prev_planner ? prev_planner(PROBE_ARGS) : standard_planner(PROBE_ARGS);
	}
	PG_FINALLY();
	{
		nesting--;
		hinted = outer;
	}
	PG_END_TRY();
	AtEOXact_GUC(true, level);
	return result;
}

static void
probe_set_rel_pathlist(PlannerInfo *root, RelOptInfo *rel, Index rti, RangeTblEntry *rte)
{
	if (prev_set_rel_pathlist)
		prev_set_rel_pathlist(root, rel, rti, rte);
	if (!hinted || rte->rtekind != RTE_RELATION || rte->inh || rel->lateral_relids)
		return;
	list_free(rel->pathlist);
	rel->pathlist = NIL;
	rel->partial_pathlist = NIL;
	add_path(rel, create_seqscan_path(root, rel, NULL, 0));
}

PG_FUNCTION_INFO_V1(hint_probe_state);

/* plans under way, queries planned, or the identifier of the last of them */
Datum
hint_probe_state(PG_FUNCTION_ARGS)
{
	static const char *const what[] = {"nesting", "planned", "query_id"};
	char	   *name = text_to_cstring(PG_GETARG_TEXT_PP(0));

	if (strcmp(name, what[0]) == 0)
		PG_RETURN_INT64(nesting);
	if (strcmp(name, what[1]) == 0)
		PG_RETURN_INT64(planned);
	PG_RETURN_INT64(last_query_id);
}

void
_PG_init(void)
{
	prev_planner = planner_hook;
	planner_hook = probe_planner;
	prev_set_rel_pathlist = set_rel_pathlist_hook;
	set_rel_pathlist_hook = probe_set_rel_pathlist;
}
