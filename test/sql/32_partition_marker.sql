-- the marker of a partition can be neither NOT NULL nor have a default
\set SHOW_CONTEXT never
SET client_min_messages = warning;
CREATE TABLE pm (id int, k int, deleted_at timestamptz) PARTITION BY LIST (k);
CREATE TABLE pm_1 (id int, k int, deleted_at timestamptz DEFAULT now());
CREATE TABLE pm_2 (id int, k int, deleted_at timestamptz NOT NULL);
-- at enable()
ALTER TABLE pm ATTACH PARTITION pm_1 FOR VALUES IN (1);
SELECT softaudit.enable('pm');
ALTER TABLE pm DETACH PARTITION pm_1;
ALTER TABLE pm ATTACH PARTITION pm_2 FOR VALUES IN (2);
SELECT softaudit.enable('pm');
ALTER TABLE pm DETACH PARTITION pm_2;
SELECT softaudit.enable('pm');
-- at ATTACH PARTITION, where it was let in and hid what was inserted into the partition
ALTER TABLE pm ATTACH PARTITION pm_1 FOR VALUES IN (1);
ALTER TABLE pm ATTACH PARTITION pm_2 FOR VALUES IN (2);
CREATE TABLE pm_3 (id int, k int, deleted_at timestamptz) PARTITION BY LIST (id);
CREATE TABLE pm_31 PARTITION OF pm_3 (deleted_at DEFAULT now()) DEFAULT;
ALTER TABLE pm ATTACH PARTITION pm_3 FOR VALUES IN (3);
ALTER TABLE pm_1 ALTER deleted_at DROP DEFAULT;
ALTER TABLE pm ATTACH PARTITION pm_1 FOR VALUES IN (1);
INSERT INTO pm_1 (id, k) VALUES (1, 1);
SELECT id, k FROM pm;
DROP TABLE pm, pm_2, pm_3;
