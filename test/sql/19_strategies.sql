-- The six strategies of docs/strategies.md in one schema, and what months do to their data.
\set ECHO none
\getenv inputdir PG_ABS_SRCDIR
\set helpers :inputdir '/sql/include/helpers.psql'
\i :helpers
SELECT softaudit.assert_preload() \g /dev/null
CREATE SCHEMA s19;
SET search_path = s19, public;
CREATE TABLE otp_codes (id bigint PRIMARY KEY, code text, created_at timestamptz NOT NULL DEFAULT now());
CREATE INDEX ON otp_codes (created_at);
CREATE TABLE users (id bigint PRIMARY KEY, email text UNIQUE);
CREATE TABLE erasure_requests (id bigint PRIMARY KEY, subject bigint, asked_at timestamptz);
CREATE TABLE invoices (id bigint PRIMARY KEY, user_id bigint REFERENCES users, amount numeric);
CREATE TABLE permissions (grantee text, what text, PRIMARY KEY (grantee, what));
CREATE TABLE rate_limits (who text, at timestamptz NOT NULL, n integer) PARTITION BY RANGE (at);
CREATE TABLE rate_limits_now PARTITION OF rate_limits DEFAULT;
-- months go by: what was deleted, written and logged is that much older; the partitions that a daily
-- maintain() would have made are made by the next one, out of the default partition
CREATE FUNCTION t.pass(months integer) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    leaf regclass;
    ago interval := make_interval(months => months);
BEGIN
    UPDATE users SET deleted_at = deleted_at - ago WHERE deleted_at IS NOT NULL;
    UPDATE invoices SET deleted_at = deleted_at - ago WHERE deleted_at IS NOT NULL;
    UPDATE otp_codes SET created_at = created_at - ago;
    UPDATE rate_limits SET at = at - ago;
    SET LOCAL session_replication_role = replica;
    FOR leaf IN SELECT b.leaf FROM softaudit.log_groups g, LATERAL softaudit.partition_bounds(g.group_id) b WHERE NOT b.is_default LOOP
        EXECUTE format('INSERT INTO %s SELECT audit_id, changed_at - %L::interval, xid, session_id, row_ref, log_group, operation, changed_by, new_data, old_data, row_key, old_row_ref, old_row_key FROM %s',
                       regexp_replace(leaf::text, '_[0-9a-z]+$', ''), ago, leaf);
    END LOOP;
    SET LOCAL session_replication_role = origin;
END
$$;
CREATE FUNCTION t.who(target regclass) RETURNS SETOF text LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY EXECUTE format('SELECT concat_ws(''|'', id, CASE WHEN deleted_at IS NOT NULL THEN ''deleted'' END) FROM softaudit.with_deleted(NULL::%s) ORDER BY id', target);
END
$$;
SET client_min_messages = warning;
\set ECHO all
SELECT softaudit.expire('otp_codes', 'created_at', '15 minutes');
SELECT softaudit.enable('users', purge_after => '90 days', keep_log => '1 year');
SELECT softaudit.enable('erasure_requests', soft_delete => false);
SELECT softaudit.enable('invoices', keep_log => '10 years', partition_by => '3 months');
SELECT softaudit.enable('permissions', soft_delete => false, keep_log => '2 years');
SELECT softaudit.expire('rate_limits', 'at', '1 day');

INSERT INTO users SELECT g, 'u' || g FROM generate_series(1, 5) g;
INSERT INTO invoices VALUES (1, 1, 10), (2, 2, 20);
INSERT INTO otp_codes VALUES (1, 'one'), (2, 'two');
INSERT INTO permissions VALUES ('eve', 'admin'), ('adam', 'admin');
INSERT INTO rate_limits VALUES ('10.0.0.1', now(), 1);
INSERT INTO erasure_requests VALUES (1, 5, now());
DELETE FROM permissions WHERE grantee = 'eve';
-- a user whose invoice is live cannot be deleted
CALL t.err('DELETE FROM s19.users WHERE id = 1');
DELETE FROM invoices WHERE id = 2;
DELETE FROM users WHERE id IN (2, 3);
-- his address is free again
INSERT INTO users VALUES (6, 'u3');
-- the request is carried out, closed, and on record
SELECT rows_deleted, images_removed FROM softaudit.erase('users', 5, 'request 1');
DELETE FROM erasure_requests WHERE id = 1;
SELECT operation FROM softaudit.history('erasure_requests', 1);

-- the same day: nothing of that is due but what lives for minutes
CALL softaudit.maintain();
SELECT t.who('users'), t.who('invoices');
SELECT count(*) FROM otp_codes;

-- two months on
SELECT t.pass(2);
INSERT INTO otp_codes VALUES (3, 'three');
INSERT INTO rate_limits VALUES ('10.0.0.1', now(), 1);
CALL softaudit.maintain();
SELECT t.who('users');
SELECT id FROM otp_codes;
SELECT count(*) FROM rate_limits;
-- what went on its own comes back on its own, parents first
SELECT softaudit.restore('invoices', 2);

-- four months on: user 3 is gone; user 2, to whom an invoice refers that is kept, is not
SELECT t.pass(2);
CALL softaudit.maintain();
SELECT t.who('users');
SELECT r.rows_done, r.rows_blocked, r.blocked_by FROM softaudit.runs r JOIN softaudit.registry g USING (table_id)
 WHERE g.table_name = 'users' AND g.schema_name = 's19' AND r.kind = 'PURGE' ORDER BY run_id DESC LIMIT 1;
SELECT operation, old_data ->> 'email' AS email FROM softaudit.history('users', 3) WHERE operation = 'PURGE';
SELECT t.who('invoices');

-- a year and a half on: the log of users is at its end, those of permissions and invoices are not
SELECT t.pass(14);
CALL softaudit.maintain();
SELECT g.group_name, count(*) FILTER (WHERE b.upper_bound <= now() - g.keep_log) AS expired, count(*) FILTER (WHERE b.upper_bound <= now()) > 0 AS has_past
  FROM softaudit.log_groups g, LATERAL softaudit.partition_bounds(g.group_id) b
 WHERE g.group_id IN (SELECT log_group FROM softaudit.registry WHERE schema_name = 's19') GROUP BY 1 ORDER BY 1;
SELECT r.table_name, bool_or(l.changed_at < now() - interval '13 months') AS has_old
  FROM softaudit.log l JOIN softaudit.registry r ON r.table_id = l.row_ref >> 32 WHERE r.schema_name = 's19' GROUP BY 1 ORDER BY 1;
-- the proof of the erasure outlives the log
SELECT relation, reason, details ->> 'rows' AS rows FROM softaudit.events WHERE event = 'ERASE' AND schema_name = 's19';
SELECT count(*) > 0 AS dropped FROM softaudit.events WHERE event = 'RETENTION' AND details -> 'tables' ? 's19.users';
\set ECHO none
DROP SCHEMA s19 CASCADE;
