-- The built-in shop: three changing tables, what each customer owes, and who owes the most.
CREATE SOURCE shop WITH (connector = 'generator');
CREATE MATERIALIZED VIEW owed AS
    SELECT c.id, c.name, sum(o.amount) AS amount
    FROM shop.public.orders o JOIN shop.public.customers c ON o.customer_id = c.id
    GROUP BY c.id, c.name;
CREATE MATERIALIZED VIEW owed_in_all AS SELECT count(*) AS customers, sum(amount) AS amount FROM owed;
SELECT * FROM owed_in_all;
SELECT * FROM owed ORDER BY amount DESC LIMIT 5;
SHOW TOPICS;
