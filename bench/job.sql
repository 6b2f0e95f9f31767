-- SPDX-License-Identifier: MIT
-- What the benchmark has SQLite do: inserts, an index, joins, aggregates, updates.
CREATE TABLE person (id INTEGER PRIMARY KEY, name TEXT, town INTEGER, born INTEGER);
CREATE TABLE town (id INTEGER PRIMARY KEY, name TEXT);
BEGIN;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 500)
	INSERT INTO town SELECT i, 'town ' || (i * 7919 % 500) FROM n;
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 60000)
	INSERT INTO person SELECT i, 'person ' || hex(i * 2654435761 % 4294967296), 1 + i * 48271 % 500, 1900 + i * 16807 % 120 FROM n;
COMMIT;
CREATE INDEX person_town ON person (town, born);
SELECT town.name, count(*), avg(born), min(person.name) FROM person JOIN town ON town.id = town GROUP BY town ORDER BY 2 DESC, 1 LIMIT 5;
SELECT count(*) FROM person WHERE name LIKE '%A7%';
UPDATE person SET born = born + 1 WHERE town % 3 = 0;
SELECT sum(born), count(DISTINCT substr(name, 8, 3)) FROM person;
SELECT count(*) FROM person a JOIN person b ON a.town = b.town AND a.born = b.born AND a.id < b.id WHERE a.town < 60;
DELETE FROM person WHERE born < 1960;
SELECT count(*) FROM person;
