/* ---- capture: the trigger function, and who acts ---- */

CREATE FUNCTION softaudit.capture() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_capture';
COMMENT ON FUNCTION softaudit.capture() IS
'trigger function: writes a row change or TRUNCATE to softaudit.log; attached by softaudit.enable()';

CREATE FUNCTION softaudit.guard() RETURNS trigger
LANGUAGE c VOLATILE PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_guard';
COMMENT ON FUNCTION softaudit.guard() IS
'trigger function: keeps softaudit.log and softaudit.events append-only';

CREATE FUNCTION softaudit.act_as(name text) RETURNS void
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_act_as';
COMMENT ON FUNCTION softaudit.act_as(text) IS
'asserts who acts (changed_by) until the end of the transaction; NULL or empty takes it back';

CREATE FUNCTION softaudit.actor() RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'softaudit_actor';
COMMENT ON FUNCTION softaudit.actor() IS
'who acts now, as changed_by would say it: the setting that softaudit.actor_setting names, else the session user';

CREATE FUNCTION softaudit.session_user_name() RETURNS text
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'softaudit_session_user_name';
COMMENT ON FUNCTION softaudit.session_user_name() IS
'the session user, as session_user_name says it: in the encoding of the database';

CREATE FUNCTION softaudit.changed_columns(old_data jsonb, new_data jsonb) RETURNS text[]
LANGUAGE c IMMUTABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'softaudit_changed_columns';
COMMENT ON FUNCTION softaudit.changed_columns(jsonb, jsonb) IS
'names of the columns in which two images of a row differ; NULL if either is NULL';

CREATE FUNCTION softaudit.key_from_image(row_key jsonb, image jsonb, image_key name[]) RETURNS jsonb
LANGUAGE c IMMUTABLE CALLED ON NULL INPUT PARALLEL SAFE AS 'MODULE_PATHNAME', 'softaudit_key_from_image';
COMMENT ON FUNCTION softaudit.key_from_image(jsonb, jsonb, name[]) IS
'key of a log row: row_key if it has one, else the named columns of its image; NULL if they are not all there';

CREATE FUNCTION softaudit.is_internal() RETURNS boolean
LANGUAGE c STABLE PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'softaudit_is_internal';
COMMENT ON FUNCTION softaudit.is_internal() IS
'true while a function of softaudit is at work that may change the log';

CREATE FUNCTION softaudit.trigger_args(target regclass) RETURNS text[]
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'softaudit_trigger_args';
COMMENT ON FUNCTION softaudit.trigger_args(regclass) IS
'arguments of a table''s capture trigger; NULL if it has none';

CREATE FUNCTION softaudit.ancestors(relation oid) RETURNS oid[]
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'softaudit_ancestors';
COMMENT ON FUNCTION softaudit.ancestors(oid) IS
'a relation and what it is a partition of, the nearest first, while a DETACH CONCURRENTLY is unfinished, too';

CREATE FUNCTION softaudit.identity(target regclass) RETURNS text
LANGUAGE c STABLE STRICT PARALLEL SAFE AS 'MODULE_PATHNAME', 'softaudit_identity';
COMMENT ON FUNCTION softaudit.identity(regclass) IS
'what tells a table from its restored copy: its OID, the database''s, the system''s identifier';

CREATE FUNCTION softaudit.is_active() RETURNS boolean
LANGUAGE sql STABLE CALLED ON NULL INPUT PARALLEL RESTRICTED
RETURN EXISTS (SELECT 1 FROM pg_catalog.pg_settings
                WHERE name = 'softaudit.actor_setting' AND short_desc IS NOT NULL);
COMMENT ON FUNCTION softaudit.is_active() IS
'whether the library is loaded in this session; does not load it';
