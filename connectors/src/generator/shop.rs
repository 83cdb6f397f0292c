//! The shop: customers, orders and payments as a pure function of a seed and the number of the transaction. Nothing is
//! remembered, so a position is one number and every row can be told at any time.
//!
//! Transaction 0 brings the first customers. Transaction n > 0:
//!
//! - brings order n, status `new`;
//! - pays order n − 7 (a payment comes, the order is updated) or cancels it, one in ten;
//! - ships order n − 30, or deletes it where it was cancelled;
//! - deletes order n − 5,000 and its payment: the archive has them;
//! - every fifth brings a customer, every eighth moves one to another city.

use crate::change::{Op, Value};

/// Customers of the first transaction.
const CUSTOMERS_AT_FIRST: u64 = 100;
const TRANSACTIONS_A_CUSTOMER: u64 = 5;
const TRANSACTIONS_A_MOVE: u64 = 8;
const PAID_AFTER: u64 = 7;
const SHIPPED_AFTER: u64 = 30;
const ARCHIVED_AFTER: u64 = 5_000;
const ORDERS_A_CANCELLED: u64 = 10;

/// 2026-01-01T00:00:00Z in microseconds since 1970; the shop's clock goes on one second a transaction.
const OPENED_US: i64 = 1_767_225_600_000_000;

const FIRST_NAMES: [&str; 16] = [
    "Ada", "Ben", "Chidi", "Dana", "Emil", "Fatima", "Grace", "Hugo", "Ines", "Jun", "Kira", "Leo", "Mina", "Noor",
    "Omar", "Pia",
];
const LAST_NAMES: [&str; 16] = [
    "Abel", "Berg", "Costa", "Diaz", "Evans", "Fischer", "Gupta", "Haas", "Ito", "Jansen", "Kaya", "Lund", "Moreau",
    "Novak", "Okafor", "Peeters",
];
const CITIES: [&str; 8] = ["Berlin", "Lagos", "Lima", "Lyon", "Mumbai", "Osaka", "Oslo", "Toronto"];
const METHODS: [&str; 4] = ["card", "invoice", "transfer", "voucher"];

/// The tables, in the order of the source's relations.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Table {
    Customers,
    Orders,
    Payments,
}

/// One change of one row. Values are in the order of the table's columns; of a deleted row there is only the key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    pub table: Table,
    pub op: Op,
    pub row: Row,
}

/// A row by value: what the columns borrow from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Row {
    Key(i64),
    Customer { id: i64, name: String, email: String, city: &'static str, since_us: i64 },
    Order { id: i64, customer_id: i64, amount: String, status: &'static str, placed_us: i64 },
    Payment { id: i64, order_id: i64, amount: String, method: &'static str, paid_us: i64 },
}

impl Row {
    /// The columns; [`Value::Absent`] beyond the key of a deleted row.
    pub fn values(&self) -> [Value<'_>; 5] {
        match self {
            Row::Key(id) => [Value::Int(*id), Value::Absent, Value::Absent, Value::Absent, Value::Absent],
            Row::Customer { id, name, email, city, since_us } => {
                [Value::Int(*id), Value::Text(name), Value::Text(email), Value::Text(city), Value::Instant(*since_us)]
            }
            Row::Order { id, customer_id, amount, status, placed_us } => [
                Value::Int(*id),
                Value::Int(*customer_id),
                Value::Text(amount),
                Value::Text(status),
                Value::Instant(*placed_us),
            ],
            Row::Payment { id, order_id, amount, method, paid_us } => [
                Value::Int(*id),
                Value::Int(*order_id),
                Value::Text(amount),
                Value::Text(method),
                Value::Instant(*paid_us),
            ],
        }
    }
}

/// A shop by its seed.
#[derive(Clone, Copy, Debug)]
pub struct Shop {
    pub seed: u64,
}

impl Shop {
    /// What happens in transaction `n`, in order. Never empty.
    pub fn transaction(self, n: u64) -> Vec<Event> {
        let create = |table, row| Event { table, op: Op::Create, row };
        if n == 0 {
            return (1..=CUSTOMERS_AT_FIRST).map(|id| create(Table::Customers, self.customer(id, 0, 0))).collect();
        }
        let mut events = Vec::with_capacity(8);
        if n.is_multiple_of(TRANSACTIONS_A_CUSTOMER) {
            events.push(create(Table::Customers, self.customer(self.customers(n), n, 0)));
        }
        if n.is_multiple_of(TRANSACTIONS_A_MOVE) {
            let id = 1 + self.random(n, "moves") % self.customers(n);
            let row = self.customer(id, self.joined(id), n);
            events.push(Event { table: Table::Customers, op: Op::Update, row });
        }
        events.push(create(Table::Orders, self.order(n, "new")));
        if let Some(order) = n.checked_sub(PAID_AFTER).filter(|order| *order > 0) {
            let status = if self.is_cancelled(order) { "cancelled" } else { "paid" };
            events.push(Event { table: Table::Orders, op: Op::Update, row: self.order(order, status) });
            if status == "paid" {
                events.push(create(Table::Payments, self.payment(order, n)));
            }
        }
        if let Some(order) = n.checked_sub(SHIPPED_AFTER).filter(|order| *order > 0) {
            events.push(match self.is_cancelled(order) {
                true => Event { table: Table::Orders, op: Op::Delete, row: Row::Key(id(order)) },
                false => Event { table: Table::Orders, op: Op::Update, row: self.order(order, "shipped") },
            });
        }
        if let Some(order) = n.checked_sub(ARCHIVED_AFTER).filter(|order| *order > 0 && !self.is_cancelled(*order)) {
            let delete = |table| Event { table, op: Op::Delete, row: Row::Key(id(order)) };
            events.extend([delete(Table::Payments), delete(Table::Orders)]);
        }
        events
    }

    /// How many customers there are once transaction `n` is through.
    fn customers(self, n: u64) -> u64 {
        CUSTOMERS_AT_FIRST + n / TRANSACTIONS_A_CUSTOMER
    }

    /// The transaction that brought a customer.
    fn joined(self, customer: u64) -> u64 {
        customer.saturating_sub(CUSTOMERS_AT_FIRST) * TRANSACTIONS_A_CUSTOMER
    }

    fn is_cancelled(self, order: u64) -> bool {
        self.random(order, "cancelled").is_multiple_of(ORDERS_A_CANCELLED)
    }

    /// `moved`: the transaction that settled where the customer lives, 0 for the first city.
    fn customer(self, customer: u64, joined: u64, moved: u64) -> Row {
        let first = pick(&FIRST_NAMES, self.random(customer, "first name"));
        let last = pick(&LAST_NAMES, self.random(customer, "last name"));
        Row::Customer {
            id: id(customer),
            name: format!("{first} {last}"),
            email: format!("{}.{}{customer}@example.com", first.to_lowercase(), last.to_lowercase()),
            city: pick(&CITIES, self.random(customer ^ (moved << 32), "city")),
            since_us: clock_us(joined),
        }
    }

    fn order(self, order: u64, status: &'static str) -> Row {
        Row::Order {
            id: id(order),
            customer_id: id(1 + self.random(order, "customer") % self.customers(order)),
            amount: self.amount(order),
            status,
            placed_us: clock_us(order),
        }
    }

    fn payment(self, order: u64, n: u64) -> Row {
        let method = pick(&METHODS, self.random(order, "method"));
        Row::Payment { id: id(order), order_id: id(order), amount: self.amount(order), method, paid_us: clock_us(n) }
    }

    /// 1.00 to 500.99.
    fn amount(self, order: u64) -> String {
        let random = self.random(order, "amount");
        format!("{}.{:02}", 1 + random % 500, (random >> 32) % 100)
    }

    /// A number that depends on the seed, on `n` and on what it is for, and looks like chance (splitmix64's finish).
    fn random(self, n: u64, purpose: &str) -> u64 {
        let salt = purpose.bytes().fold(self.seed, |salt, byte| salt.rotate_left(7) ^ u64::from(byte));
        let mut z = n.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(salt.wrapping_mul(0xd1b5_4a32_d192_ed03));
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

fn id(n: u64) -> i64 {
    i64::try_from(n).expect("transactions are counted below 2^63")
}

fn clock_us(transaction: u64) -> i64 {
    OPENED_US + id(transaction) * 1_000_000
}

fn pick<'a>(from: &[&'a str], random: u64) -> &'a str {
    let place = usize::try_from(random % from.len() as u64).expect("below the length of a slice");
    from[place]
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    fn key(row: &Row) -> i64 {
        let [Value::Int(id), ..] = row.values() else { panic!("a key is a number") };
        id
    }

    #[test]
    fn every_change_follows_on() {
        let shop = Shop { seed: 7 };
        let mut tables: [BTreeMap<i64, Row>; 3] = Default::default();
        let mut seen = BTreeMap::new();
        for n in 0..12_000 {
            for event in shop.transaction(n) {
                let table = &mut tables[event.table as usize];
                let there = table.contains_key(&key(&event.row));
                assert_eq!(there, event.op != Op::Create, "transaction {n}: {event:?}");
                *seen.entry((event.table as usize, event.op.letter())).or_insert(0) += 1;
                match event.op {
                    Op::Delete => drop(table.remove(&key(&event.row))),
                    _ => drop(table.insert(key(&event.row), event.row)),
                }
            }
        }
        let [customers, orders, payments] = &tables;
        for order in orders.values() {
            let Row::Order { customer_id, .. } = order else { panic!("{order:?}") };
            assert!(customers.contains_key(customer_id), "{order:?}");
        }
        assert!(payments.keys().all(|order| orders.contains_key(order)));
        assert!(orders.len() < 5_100, "the archive keeps the shop small");
        let kinds: Vec<_> = seen.keys().copied().collect();
        assert_eq!(kinds, [(0, "c"), (0, "u"), (1, "c"), (1, "d"), (1, "u"), (2, "c"), (2, "d")]);
    }

    #[test]
    fn the_seed_decides() {
        let same = Shop { seed: 1 }.transaction(77);
        assert_eq!(Shop { seed: 1 }.transaction(77), same);
        assert_ne!(Shop { seed: 2 }.transaction(77), same);
    }
}
