-- CREATE TABLE AS under event triggers: 17's own planner frees a node that is copied for them afterwards.
CREATE TABLE s34 (id int, k int);
INSERT INTO s34 SELECT g, g % 12 FROM generate_series(1, 30) g;
CREATE TEMP TABLE made AS
SELECT DISTINCT r1.id, rank() OVER (PARTITION BY true ORDER BY 'rat'::text)
  FROM s34 r1 LEFT JOIN generate_series(0, 18) r2(k) ON r1.id < r2.k
 WHERE EXISTS (SELECT FROM s34 r3 TABLESAMPLE bernoulli (100) REPEATABLE (7) WHERE r3.id = r2.k);
SELECT count(*) FROM made;
-- as the first statement of a session that has to load the library
\c -
CREATE TEMP TABLE made AS
SELECT DISTINCT r1.id, rank() OVER (PARTITION BY true ORDER BY 'rat'::text)
  FROM s34 r1 LEFT JOIN generate_series(0, 18) r2(k) ON r1.id < r2.k
 WHERE EXISTS (SELECT FROM s34 r3 TABLESAMPLE bernoulli (100) REPEATABLE (7) WHERE r3.id = r2.k);
SELECT count(*) FROM made;
DROP TABLE s34;
