//! The law for filter, project and union all.

use std::sync::Arc;

use proptest::prelude::*;

use super::model::{Predicate, Relation, Row, Value, add, column, epochs, schema};
use super::{Case, law};
use crate::operator::{filter, union};

/// v > 0; null where v is.
fn positive(row: &Row) -> Option<bool> {
    match &row[2] {
        Value::Int(int) => Some(*int > 0),
        _ => None,
    }
}

proptest! {
    #![proptest_config(super::small::cases())]
    #[test]
    fn filter_by(epochs in epochs(1)) {
        let factory = filter::filter_by(Arc::new(Predicate(positive)), schema()).unwrap();
        let model = |inputs: &[Relation]| {
            inputs[0].clone().into_iter().filter(|(row, _)| positive(row) == Some(true)).collect()
        };
        law(&Case { factory, inputs: vec![schema()], model: &model, consolidated: false }, &epochs);
    }

    #[test]
    fn filter_and_project(epochs in epochs(1), projects in any::<bool>(), filters in any::<bool>()) {
        let to = Arc::new(schema().project(&[4, 0]).unwrap());
        let spec = filter::FilterSpec {
            predicate: filters.then(|| Arc::new(Predicate(positive)) as _),
            projection: projects.then(|| vec![column(&schema(), "d"), column(&schema(), "k")]),
            schema: if projects { to } else { schema() },
        };
        let model = |inputs: &[Relation]| {
            let kept = inputs[0].iter().filter(|(row, _)| !filters || positive(row) == Some(true));
            add(Relation::new(), kept.map(|(row, weight)| {
                (if projects { vec![row[4].clone(), row[0].clone()] } else { row.clone() }, *weight)
            }))
        };
        let factory = filter::factory(spec).unwrap();
        law(&Case { factory, inputs: vec![schema()], model: &model, consolidated: false }, &epochs);
    }

    #[test]
    fn union_all(epochs in epochs(3)) {
        let model = |inputs: &[Relation]| inputs.iter().cloned().fold(Relation::new(), add);
        let case = Case { factory: union::factory(schema()), inputs: vec![schema(); 3], model: &model, consolidated: false };
        law(&case, &epochs);
    }
}

#[test]
fn expressions_that_do_not_fit_are_refused() {
    assert!(filter::filter_by(column(&schema(), "v"), schema()).is_err());
    assert!(filter::project(vec![column(&schema(), "v")], schema()).is_err());
}
