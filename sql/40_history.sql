/* ---- reading the log ---- */

CREATE FUNCTION softaudit.history(target regclass, key text)
RETURNS TABLE (audit_id bigint, changed_at timestamptz, xid xid8, operation text, changed_by text, old_data jsonb, new_data jsonb,
               schema_name name, table_name name, row_key jsonb, changed_columns text[],
               session_user_name text, application_name text, client_addr inet, context jsonb, origin text, partition_name text)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_history';
COMMENT ON FUNCTION softaudit.history(regclass, text) IS
'the changes of one row, oldest first, for whoever may SELECT all columns of the table; key as text or, for a composite key, as a JSON object';

CREATE FUNCTION softaudit.history(target regclass, key anyelement)
RETURNS TABLE (audit_id bigint, changed_at timestamptz, xid xid8, operation text, changed_by text, old_data jsonb, new_data jsonb,
               schema_name name, table_name name, row_key jsonb, changed_columns text[],
               session_user_name text, application_name text, client_addr inet, context jsonb, origin text, partition_name text)
LANGUAGE c VOLATILE CALLED ON NULL INPUT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_history';
COMMENT ON FUNCTION softaudit.history(regclass, anyelement) IS
'the changes of one row, oldest first; key of the key column''s own type';

CREATE FUNCTION softaudit.history_of_key(table_id integer, row_key jsonb)
RETURNS TABLE (audit_id bigint, changed_at timestamptz, xid xid8, operation text, changed_by text, old_data jsonb, new_data jsonb,
               schema_name name, table_name name, row_key jsonb, changed_columns text[],
               session_user_name text, application_name text, client_addr inet, context jsonb, origin text, partition_name text)
LANGUAGE c VOLATILE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_history_of_key';
COMMENT ON FUNCTION softaudit.history_of_key(integer, jsonb) IS
'the changes of the row with this key image, by the table''s id in softaudit.registry';

CREATE FUNCTION softaudit.key_image(target regclass, key text) RETURNS jsonb
LANGUAGE c STABLE STRICT PARALLEL UNSAFE AS 'MODULE_PATHNAME', 'softaudit_key_image';
COMMENT ON FUNCTION softaudit.key_image(regclass, text) IS
'a key as the log holds it';

CREATE FUNCTION softaudit.redacted(value jsonb) RETURNS text
LANGUAGE c STABLE STRICT PARALLEL RESTRICTED AS 'MODULE_PATHNAME', 'softaudit_redacted';
COMMENT ON FUNCTION softaudit.redacted(jsonb) IS
'the digest that stands for a value of a redacted column; NULL for a JSON null';

CREATE FUNCTION softaudit.dropped_key_image(key_columns name[], key_types text[], redact name[], key text) RETURNS jsonb
LANGUAGE plpgsql STABLE CALLED ON NULL INPUT PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
SET TimeZone = 'UTC' SET DateStyle = 'ISO' SET IntervalStyle = 'postgres' SET bytea_output = 'hex' SET extra_float_digits = 1
AS $$
DECLARE
    image jsonb := '{}';
    one jsonb;
BEGIN
    FOR i IN 1 .. cardinality(key_columns) LOOP
        one := CASE WHEN cardinality(key_columns) = 1 THEN to_jsonb(key) ELSE key::jsonb -> key_columns[i]::text END;
        IF one IS NULL OR jsonb_typeof(one) = 'null' THEN
            RAISE EXCEPTION 'the key does not name column "%", or has NULL for it', key_columns[i]
                USING ERRCODE = 'invalid_parameter_value',
                      HINT = 'Give every column of the primary key a value.';
        END IF;
        -- types of PostgreSQL's own only: see key_of()
        IF cardinality(key_columns) = 1 THEN
            EXECUTE format('SELECT to_jsonb(%L::%s)', key, key_types[i]) INTO one;
        ELSIF key_types[i] <> 'text' OR jsonb_typeof(one) NOT IN ('array', 'object') THEN
            -- jsonb and arrays may be given as the log has them
            EXECUTE format('SELECT to_jsonb(r.v) FROM jsonb_to_record(%L) r (v %s)', jsonb_build_object('v', one), key_types[i]) INTO one;
        END IF;
        IF key_columns[i] = ANY (redact) THEN
            one := to_jsonb(softaudit.redacted(one));
        END IF;
        image := image || jsonb_build_object(key_columns[i], one);
    END LOOP;
    RETURN image;
END
$$;
COMMENT ON FUNCTION softaudit.dropped_key_image(name[], text[], name[], text) IS
'a key of a table that is no more, as the log holds it';

CREATE TYPE softaudit.change AS (
    audit_id bigint, changed_at timestamptz, xid xid8, operation text, changed_by text, old_data jsonb, new_data jsonb,
    schema_name name, table_name name, row_key jsonb, changed_columns text[],
    session_user_name text, application_name text, client_addr inet, context jsonb, origin text, partition_name text
);
COMMENT ON TYPE softaudit.change IS
'a row of softaudit.changes';

CREATE FUNCTION softaudit.history_of(schema_name name, table_name name, key text) RETURNS SETOF softaudit.change
LANGUAGE plpgsql VOLATILE SECURITY DEFINER CALLED ON NULL INPUT PARALLEL UNSAFE
SET search_path = pg_catalog, pg_temp AS $$
#variable_conflict use_column
DECLARE
    t record;
    any_known boolean := false;
    any_read boolean := false;
    first_error text;
    first_hint text;
    first_state text;
    advice text;
    image jsonb;
BEGIN
    IF $1 IS NULL OR $2 IS NULL OR $3 IS NULL THEN
        RAISE EXCEPTION 'schema name, table name and key must not be NULL'
            USING ERRCODE = 'null_value_not_allowed',
                  HINT = 'Give the primary key of one row.';
    END IF;
    IF to_regclass('softaudit.registry') IS NOT NULL THEN
        FOR t IN EXECUTE 'SELECT r.* FROM softaudit.registry r WHERE r.schema_name = $1 AND r.table_name = $2 ORDER BY r.table_id'
                   USING $1, $2 LOOP
            any_known := true;
            -- tables of one name may have had different keys: each that can read this one answers
            BEGIN
                IF t.relation IS NOT NULL AND EXISTS (SELECT FROM pg_class c WHERE c.oid = t.relation) THEN
                    image := softaudit.key_image(t.relation, $3);
                ELSIF t.key_columns = '{}' THEN
                    RAISE EXCEPTION 'table "%.%" had no primary key', $1, $2
                        USING ERRCODE = 'object_not_in_prerequisite_state',
                              HINT = 'Read its changes from softaudit.changes instead.';
                ELSE
                    image := softaudit.dropped_key_image(t.key_columns, t.key_types, t.redact, $3);
                END IF;
                any_read := true;
            EXCEPTION WHEN data_exception OR invalid_parameter_value OR object_not_in_prerequisite_state THEN
                first_error := COALESCE(first_error, SQLERRM);
                GET STACKED DIAGNOSTICS advice = PG_EXCEPTION_HINT;
                first_hint := COALESCE(first_hint, NULLIF(advice, ''));
                first_state := COALESCE(first_state, SQLSTATE);
                CONTINUE;
            END;
            RETURN QUERY SELECT (u.h).* FROM (SELECT DISTINCT h::softaudit.change AS h, h.audit_id
                                                FROM softaudit.key_forms(t.table_id, image, image) f CROSS JOIN LATERAL softaudit.history_of_key(t.table_id, f) h
                                               ORDER BY h.audit_id) u;
        END LOOP;
    END IF;
    IF any_known AND NOT any_read THEN
        RAISE EXCEPTION '%', first_error USING ERRCODE = first_state, HINT = COALESCE(first_hint, 'Give the key as a value of the key column''s type.');
    END IF;
    IF NOT any_known THEN
        RAISE EXCEPTION 'no table "%.%" was ever enabled', $1, $2
            USING ERRCODE = 'undefined_table',
                  HINT = 'See softaudit.registry for the names that the log knows.';
    END IF;
END
$$;
COMMENT ON FUNCTION softaudit.history_of(name, name, text) IS
'history() by name, for dropped tables, too; for whoever was granted EXECUTE';
