-- schema.sql - the tables, views and functions of the oracle, the same in both databases.
--
-- The caller sets "soft" (1: the database whose tables are enabled) and "audit", "early" (views and
-- functions are made before the tables are enabled, or after), "keys" (a file that adds foreign keys) and "keys_first" (before the tables are enabled, or at the end). Every table has the columns that the
-- generator knows, in an order of its own.
\set ON_ERROR_STOP 1

CREATE TABLE users (id bigint PRIMARY KEY, k int, n int, s text, v numeric(12,2), a int[], j jsonb, b boolean, ref bigint, email text UNIQUE);
CREATE INDEX users_k ON users (k);
CREATE INDEX users_lower ON users (lower(s));
CREATE INDEX users_b ON users (n) WHERE b;

CREATE TABLE orders (deleted_at timestamptz, gone_too int, ref bigint, id bigint PRIMARY KEY, k int, b boolean, s text, n int, j jsonb, v numeric(12,2), a int[]);
ALTER TABLE orders DROP gone_too;
CREATE INDEX orders_ref ON orders (ref);
CREATE INDEX orders_kn ON orders (k, n);
CREATE INDEX orders_j ON orders USING gin (j);

-- an odd name, and a type without a time zone
CREATE TABLE items (id bigint PRIMARY KEY, s text, k int, "Gone at" timestamp, ref bigint, n int, v numeric(12,2), b boolean, a int[], j jsonb,
	g int GENERATED ALWAYS AS (n * 2) STORED);
CREATE INDEX items_s ON items (s text_pattern_ops);
CREATE INDEX items_a ON items USING gin (a);
CREATE INDEX items_live ON items (ref) WHERE "Gone at" IS NULL;

CREATE TABLE tags (s text UNIQUE, id bigint PRIMARY KEY, n int, k int, v numeric(12,2), b boolean, j jsonb, a int[], ref bigint, deleted_at timestamptz);

CREATE TABLE notes (id bigint PRIMARY KEY, ref bigint, k int, n int, deleted_at timestamptz, s text, v numeric(12,2), a int[], j jsonb, b boolean);
CREATE INDEX notes_k ON notes (k);
ALTER TABLE notes ENABLE ROW LEVEL SECURITY;
CREATE POLICY notes_seen ON notes USING (n % 3 <> 0 OR n IS NULL OR EXISTS (SELECT FROM tags t WHERE t.k = notes.k));

CREATE TABLE lines (k int, id bigint, n int, s text, deleted_at timestamptz, v numeric(12,2), a int[], j jsonb, b boolean, ref bigint);

CREATE TABLE events (id bigint, k int, n int, s text, v numeric(12,2), a int[], j jsonb, b boolean, ref bigint, deleted_at timestamptz) PARTITION BY LIST (k);
CREATE TABLE events_a PARTITION OF events FOR VALUES IN (0, 1, 2, 3, 4, 5, 6, 7, 8, 9);
CREATE TABLE events_b PARTITION OF events FOR VALUES IN (10, 11, 12, 13, 14, 15, 16, 17, 18, 19) PARTITION BY RANGE (n);
CREATE TABLE events_b1 PARTITION OF events_b FOR VALUES FROM (MINVALUE) TO (50);
CREATE TABLE events_b2 (deleted_at timestamptz, ref bigint, id bigint, was int, s text, k int, n int, b boolean, v numeric(12,2), j jsonb, a int[]);
ALTER TABLE events_b2 DROP was;
ALTER TABLE events_b ATTACH PARTITION events_b2 FOR VALUES FROM (50) TO (MAXVALUE);
CREATE TABLE events_b_rest PARTITION OF events_b DEFAULT;
CREATE TABLE events_rest PARTITION OF events DEFAULT;
CREATE INDEX events_id ON events (id);
CREATE INDEX events_s ON events (s) WHERE n > 10;

CREATE TABLE readings (id bigint PRIMARY KEY, k int, n int, s text, v numeric(12,2), a int[], j jsonb, b boolean, ref bigint, deleted_at timestamptz) PARTITION BY RANGE (id);
CREATE TABLE readings_1 PARTITION OF readings FOR VALUES FROM (0) TO (60);
CREATE TABLE readings_2 PARTITION OF readings FOR VALUES FROM (60) TO (200);
CREATE TABLE readings_rest PARTITION OF readings DEFAULT;
CREATE INDEX readings_ref ON readings (ref);

CREATE TABLE places (id bigint, k int, n int, s text, v numeric(12,2), a int[], j jsonb, b boolean, ref bigint, deleted_at timestamptz);
CREATE TABLE cities (people int) INHERITS (places);
CREATE TABLE villages (deleted_at timestamptz, id bigint, s text) INHERITS (places);
CREATE INDEX cities_id ON cities (id);
CREATE INDEX places_id ON places (id);
ALTER TABLE villages ADD PRIMARY KEY (id);

-- the hash of a row's text; never in parallel, whatever the settings
CREATE FUNCTION row_hash(text, bigint) RETURNS bigint LANGUAGE internal IMMUTABLE STRICT PARALLEL UNSAFE AS 'hashtextextended';

-- what stays as it is
CREATE TABLE plain (id bigint PRIMARY KEY, k int, n int, s text, v numeric(12,2), a int[], j jsonb, b boolean, ref bigint);

\if :soft
	CREATE EXTENSION softaudit;
\endif
\if :keys_first
	\i :keys
\endif

-- ---- enabling, which is done before or after what depends on the tables ----
\if :early
\else
	\ir enable.sql
\endif

CREATE VIEW v_users AS SELECT id, k, n, s, v, a, j, b, ref FROM users WHERE n IS DISTINCT FROM 7;
CREATE VIEW v_orders_barrier WITH (security_barrier) AS SELECT id, k, n, s, v, a, j, b, ref FROM orders WHERE b IS NOT FALSE;
CREATE VIEW v_check AS SELECT id, k, n, s, v, a, j, b, ref FROM orders WHERE n > 15 WITH CHECK OPTION;
CREATE VIEW v_events AS SELECT * FROM events WHERE k < 25 OR k IS NULL;
CREATE VIEW v_joined AS SELECT u.id, o.k, u.n, o.s, u.v, o.a, u.j, o.b, u.ref FROM users u LEFT JOIN orders o ON o.ref = u.id AND o.n > 20;
CREATE VIEW v_nested WITH (security_barrier) AS SELECT id, max(k) AS k, sum(n) AS n, min(s) AS s, sum(v) AS v, max(a) AS a, NULL::jsonb AS j, bool_or(b) AS b, max(ref) AS ref
	FROM v_joined GROUP BY id;
CREATE VIEW v_union AS SELECT id, k, n, s, v, a, j, b, ref FROM items UNION ALL SELECT id, k, n, s, v, a, j, b, ref FROM readings;
CREATE VIEW v_anti AS SELECT id, k, n, s, v, a, j, b, ref FROM places p WHERE NOT EXISTS (SELECT FROM tags t WHERE t.k = p.k);

-- inlined into the query, and not; names with their schema, because 17 makes materialized views with a search_path of its own
CREATE FUNCTION f_users(int) RETURNS SETOF users LANGUAGE sql STABLE AS 'SELECT * FROM public.users WHERE n > $1';
CREATE FUNCTION f_orders(int) RETURNS TABLE (id bigint, k int, n int, s text, v numeric, a int[], j jsonb, b boolean, ref bigint) LANGUAGE sql STABLE
	AS 'SELECT o.id, o.k, o.n, o.s, o.v, o.a, o.j, o.b, o.ref FROM public.orders o LEFT JOIN public.tags t ON t.k = o.k WHERE t.id IS NULL OR o.n > $1';
CREATE FUNCTION f_atomic(x int) RETURNS TABLE (id bigint, k int, n int, s text, v numeric, a int[], j jsonb, b boolean, ref bigint) LANGUAGE sql STABLE
	BEGIN ATOMIC SELECT i.id, i.k, i.n, i.s, i.v, i.a, i.j, i.b, i.ref FROM public.items i WHERE i.k > x; END;
CREATE FUNCTION f_nested(int) RETURNS TABLE (id bigint, k int, n int, s text, v numeric, a int[], j jsonb, b boolean, ref bigint) LANGUAGE sql STABLE
	AS 'SELECT f.* FROM public.f_orders($1) f JOIN public.f_users($1) u ON u.id = f.ref';
CREATE FUNCTION f_union(x int, y int DEFAULT 3) RETURNS TABLE (id bigint, k int, n int, s text, v numeric, a int[], j jsonb, b boolean, ref bigint) LANGUAGE sql STABLE
	AS 'WITH w AS (SELECT * FROM public.lines WHERE n > $1) SELECT id, k, n, s, v, a, j, b, ref FROM w UNION ALL
		SELECT id, k, n, s, v, a, j, b, ref FROM public.notes m WHERE k IN (SELECT t.k FROM public.tags t WHERE t.n > $1 - y) OR EXISTS (SELECT FROM public.orders o WHERE o.ref = m.id)';
CREATE FUNCTION f_any(anyelement, int) RETURNS TABLE (id bigint, k int, n int, s text, v numeric, a int[], j jsonb, b boolean, ref bigint, given anyelement) LANGUAGE sql STABLE
	AS 'SELECT p.id, p.k, p.n, p.s, p.v, p.a, p.j, p.b, p.ref, $1 FROM public.places p FULL JOIN public.tags t ON t.id = p.ref WHERE p.n > $2 OR t.n > $2';
CREATE FUNCTION f_definer(int) RETURNS SETOF items LANGUAGE sql STABLE SECURITY DEFINER AS 'SELECT * FROM public.items WHERE n > $1';
CREATE FUNCTION f_set(int) RETURNS SETOF items LANGUAGE sql STABLE SET enable_hashjoin = off AS 'SELECT * FROM public.items WHERE n > $1';
CREATE FUNCTION f_volatile(int) RETURNS SETOF notes LANGUAGE sql VOLATILE AS 'SELECT * FROM public.notes WHERE k > $1';
CREATE FUNCTION f_loop(int) RETURNS SETOF users LANGUAGE plpgsql STABLE AS
	$$ DECLARE r public.users; BEGIN FOR r IN SELECT * FROM public.users WHERE k > $1 LOOP RETURN NEXT r; END LOOP; END $$;
CREATE FUNCTION f_query(int) RETURNS SETOF events LANGUAGE plpgsql STABLE PARALLEL SAFE AS
	$$ BEGIN RETURN QUERY SELECT * FROM public.events WHERE n > $1; END $$;
CREATE FUNCTION f_count(int) RETURNS bigint LANGUAGE plpgsql STABLE AS
	$$ DECLARE c bigint; BEGIN SELECT count(*) INTO c FROM public.orders WHERE k = $1; RETURN c; END $$;
CREATE FUNCTION f_sum(int) RETURNS bigint LANGUAGE sql STABLE PARALLEL SAFE AS 'SELECT sum(n) FROM public.items WHERE k = $1';
CREATE FUNCTION f_exists(int) RETURNS boolean LANGUAGE plpgsql STABLE PARALLEL SAFE AS
	$$ BEGIN PERFORM FROM public.readings r WHERE r.k = $1; RETURN FOUND; END $$;

-- statements that plpgsql runs: the outcome as text
CREATE FUNCTION run_rows(q text) RETURNS SETOF text LANGUAGE plpgsql AS
	$$ BEGIN RETURN QUERY EXECUTE 'SELECT x::text FROM (' || q || ') x'; END $$;
CREATE FUNCTION run_loop(q text) RETURNS SETOF text LANGUAGE plpgsql AS
	$$ DECLARE r record; BEGIN FOR r IN EXECUTE q LOOP RETURN NEXT r::text; END LOOP; END $$;
CREATE FUNCTION run_dml(q text) RETURNS text LANGUAGE plpgsql AS
	$$ DECLARE n bigint; BEGIN EXECUTE q; GET DIAGNOSTICS n = ROW_COUNT; RETURN 'rows ' || n; EXCEPTION WHEN OTHERS THEN RETURN SQLSTATE; END $$;
CREATE VIEW v_function AS SELECT f.id, f.k, f.n, f.s, f.v, f.a, f.j, f.b, f.ref FROM f_orders(10) f LEFT JOIN LATERAL f_users(f.n) u ON u.id = f.ref WHERE u.id IS NULL OR u.b;
CREATE VIEW v_invoker WITH (security_invoker) AS SELECT id, k, n, s, v, a, j, b, ref FROM notes WHERE k > 3;
CREATE VIEW v_with AS WITH w AS MATERIALIZED (SELECT * FROM readings) SELECT DISTINCT id, k, n, s, v, a, j, b, ref FROM w WHERE id > (SELECT count(*) FROM tags);
-- DML whose plans are kept: the number of rows, twice; the rows
CREATE FUNCTION d_orders(int) RETURNS text LANGUAGE plpgsql AS
	$$ DECLARE n bigint; m bigint; BEGIN DELETE FROM orders WHERE k BETWEEN $1 AND $1 + 3 AND id % 3 = 0; GET DIAGNOSTICS n = ROW_COUNT;
		DELETE FROM orders WHERE k BETWEEN $1 AND $1 + 3 AND id % 3 < 2; GET DIAGNOSTICS m = ROW_COUNT; RETURN n || ' ' || m || ' ' || FOUND; END $$;
CREATE FUNCTION d_users(int) RETURNS SETOF bigint LANGUAGE sql AS 'DELETE FROM users WHERE n = $1 RETURNING id';
CREATE FUNCTION d_items(x int) RETURNS TABLE (id bigint, s text) LANGUAGE sql BEGIN ATOMIC DELETE FROM items i USING tags t WHERE t.k = i.k AND t.n > x RETURNING i.id, i.s; END;
CREATE FUNCTION d_events(int) RETURNS text LANGUAGE plpgsql AS
	$$ DECLARE r record; t text := ''; BEGIN FOR r IN DELETE FROM events WHERE k = $1 RETURNING id, s LOOP t := t || r.id % 2; END LOOP; RETURN length(t); END $$;
CREATE FUNCTION u_notes(int) RETURNS bigint LANGUAGE plpgsql AS
	$$ DECLARE m bigint; BEGIN UPDATE notes SET n = n + 1 WHERE k > $1 AND n < 500; SELECT count(*) + sum(n) INTO m FROM notes; RETURN m; END $$;
-- each second row of a query over a table, by its position
CREATE FUNCTION run_current(t regclass, p text, change text) RETURNS text LANGUAGE plpgsql AS
	$$ DECLARE c refcursor; r record; n int := 0; m int := 0; BEGIN
		OPEN c FOR EXECUTE format('SELECT id FROM %s WHERE %s ORDER BY id, s, n, k, v FOR UPDATE', t, p);
		LOOP
			FETCH c INTO r;
			EXIT WHEN NOT FOUND;
			n := n + 1;
			IF r.id % 2 = 0 THEN
				EXECUTE format(change, t) || ' WHERE CURRENT OF ' || quote_ident(c::text);
				m := m + 1;
			END IF;
		END LOOP;
		RETURN format('%s of %s', m, n);
	END $$;

\if :early
	\ir enable.sql
\endif
GRANT USAGE ON SCHEMA public TO oracle_reader, oracle_writer;
GRANT SELECT ON ALL TABLES IN SCHEMA public TO oracle_reader, oracle_writer;
GRANT INSERT, DELETE ON ALL TABLES IN SCHEMA public TO oracle_writer;
GRANT UPDATE ON users, items, notes, events, v_users, v_events TO oracle_writer;
\if :keys_first
\else
	\i :keys
\endif
