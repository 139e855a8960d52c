/*
 * softaudit.h
 *		The map of the module: what each file offers to the files above it.
 *
 * Calls go down only.  The floors, lowest first:
 *	 0 softaudit.h, compat.h, buf, extend, guard, ancestors	1 guc, objects	2 entry, pins	3 registry
 *	 4 actor, owner, codec, partition, marker	5 image, append, lifecycle, conflict, keyquery
 *	 6 log, key, keyform, mark, exempt, shown	7 capture, trail, ddl, setup, filter, fkey, worker
 *	 8 history	9 module
 */
#ifndef SOFTAUDIT_H
#define SOFTAUDIT_H

#include "postgres.h"

#include "access/attnum.h"
#include "commands/trigger.h"
#include "executor/tuptable.h"
#include "fmgr.h"
#include "nodes/execnodes.h"
#include "utils/jsonb.h"
#include "utils/rel.h"
#include "utils/timestamp.h"

#include "compat.h"

/* The schema that the control file names. */
#define SAU_SCHEMA "softaudit"

/*
 * The row trigger's name.  AFTER triggers fire in the order of their names: this one
 * comes before the user's, so that what those change in turn is logged after.
 */
#define SAU_CAPTURE_TRIGGER "!softaudit_capture"
#define SAU_TRUNCATE_TRIGGER "!softaudit_truncate"

/* What the names of all our triggers begin with. */
#define SAU_TRIGGER_PREFIX "!softaudit_"

/* Version of the SQL objects this library serves; the control file holds the same. */
#define SAU_SQL_VERSION "1.0"

/*
 * Columns of softaudit.log, in the order in which the SQL script declares them.
 * The log writer lays tuples out by hand, so the two must agree; partition.c
 * checks each leaf once before the first row is written to it.
 */
enum SauLogAttr
{
	SAU_LOG_AUDIT_ID = 1,
	SAU_LOG_CHANGED_AT,
	SAU_LOG_XID,
	SAU_LOG_SESSION_ID,
	SAU_LOG_ROW_REF,
	SAU_LOG_LOG_GROUP,
	SAU_LOG_OPERATION,
	SAU_LOG_CHANGED_BY,
	SAU_LOG_NEW_DATA,
	SAU_LOG_OLD_DATA,
	SAU_LOG_ROW_KEY,
	SAU_LOG_OLD_ROW_REF,
	SAU_LOG_OLD_ROW_KEY,
	SAU_LOG_PARTITION_NAME,
	SAU_LOG_SEAL_SALT,
	SAU_LOG_NATTS = SAU_LOG_SEAL_SALT
};

typedef enum SauOperation
{
	SAU_INSERT,
	SAU_UPDATE,
	SAU_DELETE,
	SAU_TRUNCATE,
	SAU_SOFT_DELETE,			/* an UPDATE that marked the row as deleted */
	SAU_RESTORE,				/* an UPDATE that took the mark away */
	SAU_PURGE,					/* a DELETE by the life cycle */
	SAU_ERASE					/* a DELETE that leaves no image and no key */
} SauOperation;

/* What a table's settings say of one column. */
#define SAU_COLUMN_EXCLUDE	0x01	/* never reaches the log */
#define SAU_COLUMN_REDACT	0x02	/* reaches it as a keyed digest */
#define SAU_COLUMN_IGNORE	0x04	/* an UPDATE of nothing else is not logged */

typedef struct SauImage SauImage;	/* image.c: how a relation's rows become JSONB */

/*
 * What is known of one captured relation (a table or one partition of it).
 * Lives in its own memory context; see registry.c for its life.
 */
typedef struct SauRel
{
	Oid			relid;			/* the relation that fires, a partition or the table itself */
	Oid			rootid;			/* the table that was enabled */
	bool		valid;			/* cleared by invalidation, rebuilt at the next use */
	bool		orphan;			/* replaced while in use */
	struct SauRel *next_orphan;
	int			in_use;			/* captures running with this description now */
	MemoryContext cxt;			/* holds everything below */
	int32		table_id;		/* softaudit.registry.table_id */
	int16		log_group;		/* softaudit.log_groups.group_id */
	bool		changes_only;	/* images => 'changes' */
	bool		unresolved;		/* a listed column cannot be told: log no images */
	bool		has_ignore;
	bool		marker_known;	/* whether deleted_attno was looked up */
	AttrNumber	deleted_attno;	/* the column that marks deleted rows, or zero */
	int			n_image_key;	/* softaudit.registry.image_key */
	char	  **image_key;
	char	   *partition_name; /* qualified name if this is a partition, else NULL */
	int			natts;
	uint8	   *column_flags;	/* SAU_COLUMN_*, by attnum - 1 */
	SauImage   *image;			/* made by image.c at first use */
} SauRel;

/*
 * A byte buffer that grows by doubling and is never shrunk by its users.
 * Offsets into it stay good when it moves; pointers do not.
 */
typedef struct SauBuf
{
	MemoryContext cxt;
	char	   *data;
	Size		len;
	Size		cap;
} SauBuf;

extern void sau_buf_grow(SauBuf *buf, Size more);	/* buf.c */

static inline void
sau_buf_reserve(SauBuf *buf, Size more)
{
	if (unlikely(buf->len + more > buf->cap))
		sau_buf_grow(buf, more);
}

static inline void
sau_buf_append(SauBuf *buf, const void *src, Size n)
{
	sau_buf_reserve(buf, n);
	memcpy(buf->data + buf->len, src, n);
	buf->len += n;
}

/* Pad with zero bytes to a multiple of four. */
static inline void
sau_buf_align4(SauBuf *buf)
{
	sau_buf_reserve(buf, 3);
	while (buf->len & 3)
		buf->data[buf->len++] = 0;
}

/* guard.c: what may raise, run so that the write goes on */
extern bool sau_guard_run(void (*function) (void *), void *arg, bool is_big);

/* guc.c: settings */
extern char *sau_guc_actor_setting;
extern char *sau_guc_context;
extern int	sau_guc_partitions_ahead;
extern double sau_guc_purge_pause;

/* softaudit.show_deleted */
typedef enum SauShow
{
	SAU_SHOW_LIVE,
	SAU_SHOW_ALL,
	SAU_SHOW_DELETED
} SauShow;

extern int	sau_guc_show_deleted;
extern bool sau_guc_hard_delete;
extern char *sau_guc_worker_databases;
extern char *sau_guc_worker_role;
extern int	sau_guc_worker_naptime;
extern void (*sau_guc_visibility_changed) (void);
extern uint64 sau_guc_context_generation;
extern void sau_guc_init(void);

/* actor.c: who acts, in which session */
extern void sau_actor_init(void);
extern const char *sau_actor_name(void);
extern const char *sau_actor_session_user(void);
extern int64 sau_actor_session(void);
extern void sau_actor_xact_end(bool committed);
extern void sau_actor_subxact_end(bool committed, SubTransactionId sub, SubTransactionId parent);

/* objects.c: softaudit's own schema and relations, and who is at work on them */
extern Oid	sau_objects_schema(bool missing_ok);
extern Oid	sau_objects_relid(const char *name, bool missing_ok);
extern Oid	sau_objects_owner(void);
extern void sau_objects_check_version(void);
extern void sau_objects_check_layout(Relation rel, const Oid *types, int n);
extern int64 sau_objects_nextval(const char *name);
extern void sau_objects_secret(uint8 *secret, int len);
extern bool sau_objects_is_internal(void);
extern void sau_objects_enter_internal(void);
extern void sau_objects_leave_internal(void);
extern int	sau_objects_suspend_internal(void);
extern void sau_objects_resume_internal(int depth);
extern void sau_objects_xact_end(void);
extern void sau_objects_forget(Oid relid);

/* entry.c: what softaudit.registry says of a table */
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

extern HeapTuple sau_entry_row(int32 table_id, Oid relid, TupleDesc *desc);
extern char **sau_entry_names_at(HeapTuple tuple, TupleDesc desc, int attno, int *n);
extern char *sau_entry_identity(Oid relid);
extern int32 *sau_entry_groups(int32 table_id, int *ngroups);
extern void sau_entry_names(int32 table_id, char **schema_name, char **table_name);
extern char **sau_entry_image_key(int32 table_id, int *n);
extern char **sau_entry_key_columns(int32 table_id, int *n);
extern bool sau_entry_key_retyped(int32 table_id);
extern int64 *sau_entry_column_since(int32 table_id, Oid rootid, Relation relation);
extern int64 sau_entry_key_since(int32 table_id, Oid relid, const AttrNumber *attnums, int nkeys);

/* registry.c: what is captured, and how */
extern SauRel *sau_registry_get(Relation relation, Trigger *trigger);
extern Trigger *sau_registry_trigger(Relation relation);
extern SauRel *sau_registry_describe(Relation relation);
extern void sau_registry_hold(SauRel *rel);
extern void sau_registry_release(SauRel *rel);
extern void sau_registry_xact_end(void);
extern void sau_registry_init(void);

/* ancestors.c: what a partition is a part of */
extern List *sau_ancestors_of(Oid relid);

/* marker.c: which relations are soft-deleted, and by which column */
typedef struct SauMarker
{
	Oid			relid;			/* hash key */
	bool		valid;			/* cleared by invalidation */
	AttrNumber	attno;			/* zero: not soft-deleted */
	Oid			typid;			/* timestamptz or timestamp */
	int32		typmod;
	Oid			root;			/* the relation whose trigger says so: itself or an ancestor */
	bool		is_shown;		/* statements with with_deleted() on it were planned */
} SauMarker;

extern void sau_marker_init(void);
extern Oid	sau_marker_function(void);
extern uint32 sau_marker_plan_hash(void);
extern const SauMarker *sau_marker_get(Oid relid);
extern void sau_marker_note_shown(Oid relid, Oid funcid, bool only);
extern void sau_marker_forget_shown(void);
extern void sau_marker_check_truncate(struct TruncateStmt *stmt);
extern void sau_marker_xact_end(void);

/* owner.c: our SQL as the extension's owner */
extern Datum sau_owner_query(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls, bool *isnull);
extern Oid	sau_owner_set_caller(Oid roleid);
extern int64 sau_owner_run(const char *sql, int nargs, Oid *types, Datum *values, const char *nulls);

/* pins.c: the settings that output functions go by */
extern int	sau_pins_of(Oid typid);
extern int	sau_pins_set(int pins);
extern int	sau_pins_set_all(void);
extern void sau_pins_reset(int level);

/* codec.c: one value to JSONB */
typedef enum SauCodecKind
{
	SAU_CODEC_BOOL,
	SAU_CODEC_INT2,
	SAU_CODEC_INT4,
	SAU_CODEC_INT8,
	SAU_CODEC_FLOAT4,
	SAU_CODEC_FLOAT8,
	SAU_CODEC_NUMERIC,
	SAU_CODEC_DATE,
	SAU_CODEC_TIMESTAMP,
	SAU_CODEC_TIMESTAMPTZ,
	SAU_CODEC_TEXT,					/* varlena whose payload is the text */
	SAU_CODEC_NAME,
	SAU_CODEC_UUID,
	SAU_CODEC_BYTEA,
	SAU_CODEC_JSONB,
	SAU_CODEC_OUTPUT,				/* output function */
	SAU_CODEC_JSON,					/* to_jsonb(), guarded where the text looks risky */
	SAU_CODEC_TO_JSONB				/* to_jsonb() */
} SauCodecKind;

/* How the values of one column are written. */
typedef struct SauCodec
{
	AttrNumber	attno;
	SauCodecKind	kind;
	bool		guarded;
	bool		redact;
	bool		is_virtual;
	int			pins;
	Size		guard_size;		/* larger values may be refused for their size */
	int16		typlen;
	bool		typbyval;
	Oid			atttypid;
	int			namelen;
	char	   *name;
	FmgrInfo	fn;
	ExprState  *expr;			/* of a virtual generated column */
	bool		may_raise;		/* for some rows */
} SauCodec;

extern void sau_codec_choose(SauCodec *codec, MemoryContext cxt);
extern JEntry sau_codec_put(SauBuf *out, SauCodec *codec, Datum value);
extern JEntry sau_codec_put_standin(SauBuf *out, SauCodec *codec, Datum value);
extern JEntry sau_codec_put_uncomputed(SauBuf *out, SauCodec *codec);
extern bool sau_codec_whole_number(const char *num, Size len, uint64 *result);

/* image.c: tuple to JSONB */
extern void sau_image_full(SauRel *rel, Relation relation, TupleTableSlot *slot, SauBuf *out);
extern void sau_image_some(SauRel *rel, Relation relation, TupleTableSlot *slot, const bool *wanted, SauBuf *out);
extern bool sau_image_key(SauRel *rel, Relation relation, TupleTableSlot *slot, SauBuf *out);
extern int64 sau_image_row_ref(int32 table_id, const JsonbContainer *key, const int *order);
extern int64 sau_image_key_ref(SauRel *rel, Relation relation, const Jsonb *key);
extern int	sau_image_key_order(const JsonbContainer *key, char **names, int n, int *order);
extern int64 sau_image_slot_ref(SauRel *rel, Relation relation, TupleTableSlot *slot, SauBuf *scratch);
extern bool sau_image_holds_key(SauRel *rel, Relation relation);
extern bool sau_image_has_key(SauRel *rel, Relation relation);
extern bool sau_image_same_key(SauRel *rel, Relation relation, TupleTableSlot *oldslot, TupleTableSlot *newslot);
extern int	sau_image_compare(SauRel *rel, Relation relation, TupleTableSlot *oldslot, TupleTableSlot *newslot, bool *changed);
extern const bool *sau_image_key_columns(SauRel *rel, Relation relation);
extern const AttrNumber *sau_image_key_attnums(SauRel *rel, Relation relation, int *nkeys);

/* partition.c: which leaf of the log takes a row */
typedef struct SauLeaf
{
	Oid			relid;
	Oid			key_index;		/* row_ref */
	Oid			old_key_index;	/* old_row_ref where set */
	bool		has_other_indexes;
} SauLeaf;

extern Relation sau_partition_open(int32 log_group, TimestampTz changed_at, SauLeaf *leaf);
extern List *sau_partition_leaves(int32 log_group);
extern void sau_partition_leaf_indexes(Relation leaf, SauLeaf *info);
extern void sau_partition_init(void);

/* extend.c: a relation longer by several pages at once */
#define SAU_EXTEND_MAX	64
extern int	sau_extend_by(Relation rel, int pages, BlockNumber *first);

/* append.c: log rows into their leaf */
typedef struct SauLogTuple
{
	HeapTupleHeader header;
	uint32		len;
	bool		key_changed;
	int64		row_ref;
	int64		old_row_ref;	/* if key_changed */
} SauLogTuple;

extern void sau_append_init(void);
extern void sau_append_reset(void);
extern void sau_append_rows(int32 log_group, CommandId cid, const SauLogTuple *rows, int n);

/* log.c: the buffer of captured rows and its way into the leaf */
extern SauBuf *sau_log_begin(SauRel *rel, SauOperation op, bool is_plain);
extern void sau_log_field_begin(void);
extern void sau_log_field_end(int attno);
extern void sau_log_ref(int attno, int64 ref);
extern void sau_log_text(int attno, const char *text);
extern void sau_log_end(void);
extern void sau_log_flush_rows(void);
extern bool sau_log_has_unhooked(void);
extern int	sau_log_depth(void);
extern int	sau_log_statement_begin(void);
extern uint64 sau_log_statement_serial(void);
extern void sau_log_statement_flush(void);
extern void sau_log_statement_end(int depth);
extern void sau_log_xact_end(void);
extern void sau_log_subxact_end(bool committed, SubTransactionId sub, SubTransactionId parent);
extern void sau_log_init(void);

/* the rows that wait; to be raised when a setting may have changed that says who acts */
extern int	sau_log_waiting;
extern uint64 sau_log_activity;

/* Put all waiting rows into the log. */
static inline void
sau_log_flush(void)
{
	if (unlikely(sau_log_waiting > 0))
		sau_log_flush_rows();
}

/* key.c: the key that a caller gives */
typedef struct SauGivenKey
{
	Oid			typid;
	Datum		value;
} SauGivenKey;

extern Relation sau_key_open_table(Oid relid);
extern SauGivenKey sau_key_given(FunctionCallInfo fcinfo, int arg);
extern Jsonb *sau_key_as_owner(SauRel *rel, Relation relation, SauGivenKey given, TupleTableSlot **slot);

/* keyform.c: the images that a key may have in the log */
typedef struct SauKeyForm
{
	Jsonb	   *key;
	int64		ref;			/* what the log's indexes find it by */
} SauKeyForm;

extern Jsonb *sau_keyform_from_image(Jsonb *image, char **names, int n);
extern bool sau_keyform_same(Jsonb *a, Jsonb *b);
extern int64 sau_keyform_ref(int32 table_id, const JsonbContainer *key);
extern List *sau_keyform_others(int32 table_id, Jsonb *key);

/* mark.c: DELETE as a mark */
extern struct Node *sau_mark_test(const SauMarker *marker, int rti, NullTestType type);
extern struct Node *sau_mark_assigned(List *targetlist, AttrNumber attno);
extern void sau_mark_delete(struct Query *query, const SauMarker *marker);
extern void sau_mark_merge(struct Query *query, const SauMarker *marker, bool is_filtered);
extern void sau_mark_on_conflict(struct Query *query, const SauMarker *marker);
extern void sau_mark_conflict_select(struct Query *query, const SauMarker *marker, SauShow show);

/* exempt.c: who sees deleted rows without asking */
extern const char *sau_exempt_own_text;
extern bool sau_exempt_is_key_query(const char *text, struct Query *query);
extern SauShow sau_exempt_shown_now(void);
extern struct PlannedStmt *sau_exempt_utility_begin(struct PlannedStmt *pstmt, int *save);
extern void sau_exempt_utility_end(int save);
extern void sau_exempt_set_command(struct VariableSetStmt *set);

/* what event triggers collect of a CREATE TABLE AS must outlive its planning */
extern const struct Node *sau_collected_query;

/* shown.c: with_deleted() and only_deleted() */
extern struct Query *sau_shown_expand(struct Query *query, int rti, struct RangeTblEntry *rte, struct FuncExpr *call);

/* filter.c: what queries see of soft-deleted tables */
extern void sau_filter_init(void);

/* trail.c: the log rows of one row */
typedef struct SauTrail SauTrail;

typedef struct SauTrailRow
{
	int64		audit_id;
	HeapTuple	tuple;
	TupleDesc	desc;
} SauTrailRow;

extern SauTrail *sau_trail_read(SauRel *rel, Jsonb *key, int64 ref, bool only_now, int64 key_since, bool is_retyped);
extern SauTrailRow *sau_trail_rows(SauTrail *trail, int *n);
extern Jsonb *sau_trail_key(SauTrail *trail, SauTrailRow *row);
extern int64 sau_trail_int8(HeapTuple tuple, TupleDesc desc, int attno);
extern Jsonb *sau_trail_jsonb(HeapTuple tuple, TupleDesc desc, int attno);

/* conflict.c: a hint for who writes a row whose key a deleted row has */
typedef struct SauConflict
{
	ErrorContextCallback callback;
	struct EState *estate;		/* of the statement, or NULL */
} SauConflict;

extern void sau_conflict_begin(SauConflict *statement, struct EState *estate);
extern void sau_conflict_end(SauConflict *statement);

/* The first words of our own queries about foreign keys, which the filter leaves alone. */
#define SAU_KEY_QUERY "/* softaudit: keys */ "

/* keyquery.c: the queries that foreign keys of soft-deleted tables need; a key is as its catalog row says it */
typedef struct SauKey
{
	Oid			oid;
	char	   *name;
	Oid			child;
	Oid			parent;
	char		on_delete;
	bool		is_deferrable;
	bool		is_deferred;
	int			n;
	AttrNumber	child_atts[INDEX_MAX_KEYS];
	AttrNumber	parent_atts[INDEX_MAX_KEYS];
	Oid			operators[INDEX_MAX_KEYS];	/* parent's = child's */
} SauKey;

typedef enum SauKeyQuery
{
	SAU_KEY_LOCK,			/* on the rows themselves */
	SAU_KEY_REFERRED,		/* on the children of rows */
	SAU_KEY_CASCADE,
	SAU_KEY_CASCADE_RESTORE,
	SAU_KEY_DEAD_PARENT,	/* on the parents of rows */
	SAU_KEY_LOCK_PARENT,
	SAU_KEY_MARK,			/* on children by their place */
	SAU_KEY_UNMARK
} SauKeyQuery;

extern List *sau_keyquery_keys(Relation relation, int trigger_type);
extern bool sau_keyquery_hand_is_parent(SauKeyQuery kind);
extern bool sau_keyquery_has_arrays(Oid relid, const AttrNumber *atts, int n);
extern void sau_keyquery_run(SauKeyQuery kind, Oid relid, const SauKey *key, Datum *values, int expected);
extern void sau_keyquery_refuse_referred(const SauKey *key, Oid relid, char *value);
extern void sau_keyquery_refuse_dead_parent(const SauKey *key, Oid relid, char *value, bool is_restore);
extern bool sau_keyquery_is_ours(const char *text);

/* fkey.c: foreign keys at a soft delete and a restore */
extern void sau_fkey_statement_end(void);
extern void sau_fkey_settle_deferred(void);
extern void sau_fkey_set_constraints(bool deferred);
extern void sau_fkey_xact_end(void);
extern void sau_fkey_subxact_end(bool committed, SubTransactionId sub, SubTransactionId parent);

/* lifecycle.c: purge, expiry, erasure */
extern SauOperation sau_lifecycle_removal(int32 table_id);
extern bool sau_lifecycle_keeps_image(int32 table_id);

/* worker.c: maintain() by a background worker */
extern void sau_worker_init(void);

/* capture.c: the row trigger */
extern void sau_capture_statement_end(void);
extern void sau_capture_xact_end(void);
extern void sau_capture_subxact_end(bool committed, SubTransactionId sub, SubTransactionId parent);

#endif							/* SOFTAUDIT_H */
