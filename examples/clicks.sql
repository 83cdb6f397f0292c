-- Events in a topic, counted by user: write with SQL or with any Kafka client, read at once.
CREATE TABLE clicks (id BIGINT, user_id INT, url TEXT, at TIMESTAMP) WITH (topic = 'clicks', format = 'json');
CREATE MATERIALIZED VIEW visits AS
    SELECT user_id, count(*) AS clicks, max(at) AS last FROM clicks GROUP BY user_id;
INSERT INTO clicks VALUES
    (1, 7, '/', '2026-01-01 10:00:00'),
    (2, 7, '/cart', '2026-01-01 10:00:05'),
    (3, 8, '/', '2026-01-01 10:00:07');
SELECT * FROM visits ORDER BY user_id;
