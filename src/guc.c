/*
 * guc.c
 *		The settings.
 */
#include "postgres.h"

#include <limits.h>

#include "common/jsonapi.h"
#include "miscadmin.h"
#include "softaudit.h"
#include "utils/guc.h"

char	   *sau_guc_actor_setting = NULL;
char	   *sau_guc_context = NULL;
char	   *sau_guc_worker_databases = NULL;
char	   *sau_guc_worker_role = NULL;
int			sau_guc_worker_naptime = 3600;
static int	sau_guc_retention_lock_timeout = 200;
int			sau_guc_partitions_ahead = 3;
double		sau_guc_purge_pause = 4;
int			sau_guc_show_deleted = SAU_SHOW_LIVE;
bool		sau_guc_hard_delete = false;

/* Called when what queries see has changed; NULL until somebody cares. */
void		(*sau_guc_visibility_changed) (void) = NULL;

/* Changes whenever softaudit.context does, so that nobody compares the text. */
uint64		sau_guc_context_generation = 0;

static const struct config_enum_entry show_deleted_options[] = {
	{"off", SAU_SHOW_LIVE, false},
	{"on", SAU_SHOW_ALL, false},
	{"only", SAU_SHOW_DELETED, false},
	{"false", SAU_SHOW_LIVE, true},
	{"no", SAU_SHOW_LIVE, true},
	{"0", SAU_SHOW_LIVE, true},
	{"true", SAU_SHOW_ALL, true},
	{"yes", SAU_SHOW_ALL, true},
	{"1", SAU_SHOW_ALL, true},
	{NULL, 0, false}
};

typedef struct ContextCheck
{
	bool		number_too_big;
} ContextCheck;

/*
 * Note a number that numeric could not hold: at most 1,000 characters and an
 * exponent of at most four digits are well inside its range.
 */
static SauJsonActionResult
context_scalar(void *state, char *token, JsonTokenType tokentype)
{
	ContextCheck *check = state;

	if (tokentype == JSON_TOKEN_NUMBER)
	{
		char	   *e = strpbrk(token, "eE");

		if (strlen(token) > 1000 || (e && strlen(e) > 6))
			check->number_too_big = true;
	}
	SAU_JSON_ACTION_RETURN;
}

/*
 * Accept what JSONB can hold as an object, and the empty string for "none".
 * The value is read again at the time of a write, when an error is too late.
 */
static bool
check_context(char **newval, void **extra, GucSource source)
{
	JsonLexContext *lex;
	JsonSemAction sem = {0};
	ContextCheck check = {false};
	const char *p = *newval;

	if (p == NULL || *p == '\0')
		return true;
	while (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')
		p++;
	if (*p != '{')
	{
		GUC_check_errdetail("The value is not a JSON object.");
		GUC_check_errhint("Write it as '{\"request_id\": \"...\"}'.");
		return false;
	}
	/*
	 * Without a database there is no encoding to convert an escape to: before 16 the
	 * parser raises, which in the postmaster would be the end of the server.
	 */
	if (!OidIsValid(MyDatabaseId) && strstr(*newval, "\\u") != NULL)
	{
		GUC_check_errdetail("An escape by code point is not accepted from the server's configuration.");
		GUC_check_errhint("Write the character itself.");
		return false;
	}
	lex = sau_compat_json_lexer(*newval, strlen(*newval));
	sem.semstate = &check;
	sem.scalar = context_scalar;
	if (pg_parse_json(lex, &sem) != JSON_SUCCESS)
	{
		GUC_check_errdetail("The value is not a JSON object that jsonb can hold.");
		return false;
	}
	if (check.number_too_big)
	{
		GUC_check_errdetail("A number in the value is out of range.");
		return false;
	}
	return true;
}

static void
assign_context(const char *newval, void *extra)
{
	sau_guc_context_generation++;
}

static void
assign_show_deleted(int newval, void *extra)
{
	if (newval != sau_guc_show_deleted && sau_guc_visibility_changed)
		sau_guc_visibility_changed();
}

static void
assign_hard_delete(bool newval, void *extra)
{
	if (newval != sau_guc_hard_delete && sau_guc_visibility_changed)
		sau_guc_visibility_changed();
}

/* Only a custom setting, whose name has a dot, may say who acts; empty for none. */
static bool
check_actor_setting(char **newval, void **extra, GucSource source)
{
	if (**newval != '\0' && strchr(*newval, '.') == NULL)
	{
		GUC_check_errdetail("\"%s\" is not the name of a custom setting.", *newval);
		GUC_check_errhint("Name one with a dot in it, for example app.current_user.");
		return false;
	}
	return true;
}

/* Define the settings; called once when the library is loaded. */
void
sau_guc_init(void)
{
	DefineCustomStringVariable("softaudit.actor_setting",
							   "Names the custom setting that says who acts.",
							   "Where that setting is empty or unset, the session user is logged.",
							   &sau_guc_actor_setting,
							   "app.current_user",
							   PGC_USERSET, 0,
							   check_actor_setting, NULL, NULL);
	DefineCustomStringVariable("softaudit.context",
							   "A JSON object kept with the changes of a transaction.",
							   NULL,
							   &sau_guc_context,
							   "",
							   PGC_USERSET, 0,
							   check_context, assign_context, NULL);
	DefineCustomIntVariable("softaudit.partitions_ahead",
							"How many log partitions are kept ready beyond the current one.",
							NULL,
							&sau_guc_partitions_ahead,
							3, 1, 100,
							PGC_SUSET, 0,
							NULL, NULL, NULL);
	DefineCustomIntVariable("softaudit.retention_lock_timeout",
							"How long the drop of an expired partition may wait for a lock, and so make others wait.",
							NULL,
							&sau_guc_retention_lock_timeout,
							200, 1, INT_MAX,
							PGC_SUSET, GUC_UNIT_MS,
							NULL, NULL, NULL);
	DefineCustomRealVariable("softaudit.purge_pause",
							 "How long purge and expiry pause after a batch that others took the processor from.",
							 "In multiples of the time for which they had it; 0 for no pause.",
							 &sau_guc_purge_pause,
							 4, 0, 100,
							 PGC_USERSET, 0,
							 NULL, NULL, NULL);
	DefineCustomStringVariable("softaudit.worker_databases",
							   "Names the databases that the background worker maintains.",
							   "A list, separated by commas. The library must be in shared_preload_libraries.",
							   &sau_guc_worker_databases,
							   "",
							   PGC_SIGHUP, 0,
							   NULL, NULL, NULL);
	DefineCustomStringVariable("softaudit.worker_role",
							   "Names the role as which the background worker calls softaudit.maintain().",
							   "It needs EXECUTE on that, no more. Empty: the worker does nothing.",
							   &sau_guc_worker_role,
							   "",
							   PGC_SIGHUP, 0,
							   NULL, NULL, NULL);
	DefineCustomIntVariable("softaudit.worker_naptime",
							"How long the background worker sleeps between two rounds.",
							NULL,
							&sau_guc_worker_naptime,
							3600, 1, 7 * 86400,
							PGC_SIGHUP, GUC_UNIT_S,
							NULL, NULL, NULL);
	DefineCustomEnumVariable("softaudit.show_deleted",
							 "Which rows of soft-deleted tables queries see.",
							 "off: live rows; on: all rows; only: deleted rows.",
							 &sau_guc_show_deleted,
							 SAU_SHOW_LIVE, show_deleted_options,
							 PGC_USERSET, 0,
							 NULL, assign_show_deleted, NULL);
	DefineCustomBoolVariable("softaudit.hard_delete",
							 "Lets DELETE and TRUNCATE remove rows of soft-deleted tables for good.",
							 NULL,
							 &sau_guc_hard_delete,
							 false,
							 PGC_SUSET, 0,
							 NULL, assign_hard_delete, NULL);
	MarkGUCPrefixReserved("softaudit");
}
