/*
 * actor.c
 *		Who changes a row: the name the application asserts, and the session's facts.
 *
 * Step of the path: capture asks once a statement; the log row carries the name
 * and a reference to a row of softaudit.log_sessions with everything else.
 *
 * That row is written by the first capture that needs it and shared by all that
 * follow while nothing in it changes.  The last few are remembered, since behind a
 * pooler clients take turns on one connection.  A row must not dangle: who wrote it in
 * a (sub)transaction that rolled back writes another.  A prepared transaction may
 * yet roll back, so what it wrote counts as lost, too.
 */
#include "postgres.h"

#include "access/genam.h"
#include "access/heapam.h"
#include "access/htup_details.h"
#include "access/table.h"
#include "access/xact.h"
#include "catalog/index.h"
#include "catalog/pg_type.h"
#include "executor/executor.h"
#include "mb/pg_wchar.h"
#include "miscadmin.h"
#include "softaudit.h"
#include "utils/builtins.h"
#include "utils/fmgrprotos.h"
#include "utils/guc.h"
#include "utils/inval.h"
#include "utils/lsyscache.h"
#include "utils/memutils.h"
#include "utils/syscache.h"

enum SessionAttr
{
	SESSION_ID = 1,
	SESSION_CREATED_AT,
	SESSION_USER_NAME,
	SESSION_APPLICATION_NAME,
	SESSION_CLIENT_ADDR,
	SESSION_CLIENT_PORT,
	SESSION_BACKEND_PID,
	SESSION_CONTEXT,
	SESSION_ORIGIN,
	SESSION_NATTS = SESSION_ORIGIN
};

/* A session row that log rows may refer to, and what it says. */
typedef struct KnownSession
{
	bool		written;
	Oid			relid;			/* log_sessions as it was then; it may have been made anew */
	SubTransactionId sub;		/* wrote it, while the transaction is open; then invalid */
	int64		id;
	Oid			user;
	uint16		origin;			/* replication origin, as PostgreSQL numbers them */
	bool		has_context;
	uint64		context_generation;
	char		application_name[NAMEDATALEN];
} KnownSession;

#define KNOWN_SESSIONS	8

static KnownSession known[KNOWN_SESSIONS];
static int	current = 0;		/* the one that was asked for last */
static bool written_now = false;	/* the open transaction has written one */

/* A role was renamed, perhaps: what was written says its old name. */
static void
role_callback(Datum arg, int cacheid, uint32 hashvalue)
{
	for (int i = 0; i < KNOWN_SESSIONS; i++)
		known[i].written = false;
}

/* Register the invalidation callback; called once when the library is loaded. */
void
sau_actor_init(void)
{
	CacheRegisterSyscacheCallback(AUTHOID, role_callback, (Datum) 0);
}

/*
 * A text of the session's in the database's encoding, in which PostgreSQL checks neither
 * startup options nor what ALTER ROLE set or called a role in another database: each byte
 * that is no character is spelled out as \xff, within JSON with the backslash escaped.
 * A dump of the log could not be restored otherwise.  The text itself where it is good.
 */
static const char *
in_encoding(const char *text, bool in_json)
{
	int			encoding = GetDatabaseEncoding();
	int			len = strlen(text);
	StringInfoData clean;

	if (likely(pg_encoding_verifymbstr(encoding, text, len) == len))
		return text;
	initStringInfo(&clean);
	while (len > 0)
	{
		int			n = pg_encoding_verifymbchar(encoding, text, len);

		if (n > 0)
			appendBinaryStringInfo(&clean, text, n);
		else
		{
			n = 1;
			appendStringInfo(&clean, "%s\\x%02x", in_json ? "\\" : "", (unsigned char) *text);
		}
		text += n;
		len -= n;
	}
	return clean.data;
}

/* The name of the session user, in the database's encoding. */
const char *
sau_actor_session_user(void)
{
	return in_encoding(GetUserNameFromId(GetSessionUserId(), false), false);
}

/*
 * The asserted name of who acts: the value of the setting that
 * softaudit.actor_setting names, else the session user.  The result lives until the
 * setting or the transaction changes, or in the current memory context; never NULL.
 */
const char *
sau_actor_name(void)
{
	if (sau_guc_actor_setting && *sau_guc_actor_setting)
	{
		/* raises for a setting that the user may not read */
		const char *name = GetConfigOption(sau_guc_actor_setting, true, true);

		if (name && *name)
			return in_encoding(name, false);
	}
	return sau_actor_session_user();
}

/* Call a builtin without arguments that may return NULL. */
static bool
call_builtin(PGFunction function, Datum *result)
{
	LOCAL_FCINFO(fcinfo, 0);

	InitFunctionCallInfoData(*fcinfo, NULL, 0, InvalidOid, NULL, NULL);
	*result = function(fcinfo);
	return !fcinfo->isnull;
}

/* Write a session row with the facts as they are now, and its index entries. */
static void
write_session(KnownSession *session)
{
	static const Oid types[SESSION_NATTS] = {
		INT8OID, TIMESTAMPTZOID, TEXTOID, TEXTOID, INETOID, INT4OID, INT4OID, JSONBOID, TEXTOID
	};
	Relation	rel = table_open(sau_objects_relid("log_sessions", false), RowExclusiveLock);
	Datum		values[SESSION_NATTS];
	bool		nulls[SESSION_NATTS] = {false};
	HeapTuple	tuple;
	List	   *indexes;
	ListCell   *lc;
	TupleTableSlot *slot;

	sau_objects_check_layout(rel, types, lengthof(types));

	session->id = sau_objects_nextval("log_session_id_seq");
	session->relid = RelationGetRelid(rel);
	session->user = GetSessionUserId();
	session->origin = sau_compat_session_origin();
	session->has_context = sau_guc_context && *sau_guc_context;
	session->context_generation = sau_guc_context_generation;
	strlcpy(session->application_name, application_name ? application_name : "", NAMEDATALEN);

	values[SESSION_ID - 1] = Int64GetDatum(session->id);
	values[SESSION_CREATED_AT - 1] = TimestampTzGetDatum(GetCurrentTransactionStartTimestamp());
	values[SESSION_USER_NAME - 1] = CStringGetTextDatum(sau_actor_session_user());
	values[SESSION_APPLICATION_NAME - 1] = CStringGetTextDatum(session->application_name);
	/* NULL for a local socket and in a worker */
	nulls[SESSION_CLIENT_ADDR - 1] = !call_builtin(inet_client_addr, &values[SESSION_CLIENT_ADDR - 1]);
	nulls[SESSION_CLIENT_PORT - 1] = !call_builtin(inet_client_port, &values[SESSION_CLIENT_PORT - 1]);
	values[SESSION_BACKEND_PID - 1] = Int32GetDatum(MyProcPid);
	if (session->has_context)
		values[SESSION_CONTEXT - 1] = DirectFunctionCall1(jsonb_in, CStringGetDatum(in_encoding(sau_guc_context, true)));
	else
		nulls[SESSION_CONTEXT - 1] = true;
	nulls[SESSION_ORIGIN - 1] = true;
	if (session->origin != InvalidReplOriginId && session->origin != DoNotReplicateId)
	{
		char	   *name;

		if (replorigin_by_oid(session->origin, true, &name))
		{
			values[SESSION_ORIGIN - 1] = CStringGetTextDatum(in_encoding(name, false));
			nulls[SESSION_ORIGIN - 1] = false;
		}
	}

	{
		/* Columns that a later version of the SQL added stay NULL. */
		int			natts = RelationGetNumberOfAttributes(rel);
		Datum	   *v = palloc0(natts * sizeof(Datum));
		bool	   *n = palloc(natts * sizeof(bool));

		memset(n, true, natts * sizeof(bool));
		memcpy(v, values, sizeof(values));
		memcpy(n, nulls, sizeof(nulls));
		tuple = heap_form_tuple(RelationGetDescr(rel), v, n);
	}
	simple_heap_insert(rel, tuple);

	slot = MakeSingleTupleTableSlot(RelationGetDescr(rel), &TTSOpsHeapTuple);
	ExecStoreHeapTuple(tuple, slot, false);
	indexes = RelationGetIndexList(rel);
	foreach(lc, indexes)
	{
		Relation	index = index_open(lfirst_oid(lc), RowExclusiveLock);
		IndexInfo  *info = BuildIndexInfo(index);
		Datum		ivalues[INDEX_MAX_KEYS];
		bool		inulls[INDEX_MAX_KEYS];

		FormIndexDatum(info, slot, NULL, ivalues, inulls);
		index_insert(index, ivalues, inulls, &tuple->t_self, rel,
					 info->ii_Unique ? UNIQUE_CHECK_YES : UNIQUE_CHECK_NO, false, info);
		sau_compat_index_insert_done(index, info);
		index_close(index, NoLock);
	}
	ExecDropSingleTupleTableSlot(slot);
	table_close(rel, NoLock);

	session->sub = GetCurrentSubTransactionId();
	session->written = true;
	written_now = true;
}

/* Does a remembered row say what is true now? */
static bool
still_true(const KnownSession *session)
{
	bool		has_context = sau_guc_context && *sau_guc_context;

	return session->written &&
		session->relid == sau_objects_relid("log_sessions", true) &&
		session->user == GetSessionUserId() &&
		session->origin == sau_compat_session_origin() &&
		session->has_context == has_context &&
		(!has_context || session->context_generation == sau_guc_context_generation) &&
		strcmp(session->application_name, application_name ? application_name : "") == 0;
}

/*
 * The id of the session row that says what is true now; written first where there
 * is none yet, or it was rolled back.
 */
int64
sau_actor_session(void)
{
	MemoryContext cxt;
	MemoryContext old;

	if (likely(still_true(&known[current])))
		return known[current].id;
	for (int i = 0; i < KNOWN_SESSIONS; i++)
		if (still_true(&known[i]))
		{
			current = i;
			return known[i].id;
		}

	current = (current + 1) % KNOWN_SESSIONS;
	known[current].written = false;
	cxt = AllocSetContextCreate(CurrentMemoryContext, "softaudit session row", ALLOCSET_SMALL_SIZES);
	old = MemoryContextSwitchTo(cxt);
	write_session(&known[current]);
	MemoryContextSwitchTo(old);
	MemoryContextDelete(cxt);
	return known[current].id;
}

/* "lasting" is false for an abort, and for PREPARE, whose end is not known. */
void
sau_actor_xact_end(bool lasting)
{
	if (!written_now)
		return;
	written_now = false;
	for (int i = 0; i < KNOWN_SESSIONS; i++)
	{
		if (known[i].sub != InvalidSubTransactionId && !lasting)
			known[i].written = false;
		known[i].sub = InvalidSubTransactionId;
	}
}

void
sau_actor_subxact_end(bool committed, SubTransactionId sub, SubTransactionId parent)
{
	for (int i = 0; i < KNOWN_SESSIONS; i++)
	{
		if (known[i].sub != sub)
			continue;
		known[i].sub = committed ? parent : InvalidSubTransactionId;
		if (!committed)
			known[i].written = false;
	}
}

PG_FUNCTION_INFO_V1(softaudit_act_as);

/*
 * softaudit.act_as(name text): assert who acts, to the end of the transaction.
 * NULL or the empty string takes the assertion back.
 */
Datum
softaudit_act_as(PG_FUNCTION_ARGS)
{
	char	   *name = PG_ARGISNULL(0) ? NULL : text_to_cstring(PG_GETARG_TEXT_PP(0));
	/* whoever chose the setting: a function of another's lends no right to set it */
	Oid			roles[] = {GetSessionUserId(), GetUserId()};

	if (sau_guc_actor_setting == NULL || *sau_guc_actor_setting == '\0')
		ereport(ERROR,
				(errcode(ERRCODE_OBJECT_NOT_IN_PREREQUISITE_STATE),
				 errmsg("softaudit.actor_setting is empty"),
				 errhint("Name a setting there, for example app.current_user.")));
	/* the first round is a trial */
	for (int i = 0; i < lengthof(roles); i++)
		(void) set_config_option_ext(sau_guc_actor_setting, name ? name : "",
									 superuser_arg(roles[i]) ? PGC_SUSET : PGC_USERSET, PGC_S_SESSION, roles[i],
									 GUC_ACTION_LOCAL, i == lengthof(roles) - 1, 0, false);
	PG_RETURN_VOID();
}
