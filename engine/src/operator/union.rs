//! [`Union`]: the rows of all inputs (`UNION ALL`), as many ports as there are. Keeps nothing.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use super::{Context, Error, Exchange, Factory, Operator, Port};
use crate::delta::Delta;
use crate::state::consolidate::under;
use crate::state::{Reader, Writer};
use crate::time::Epoch;

/// The operator; the same on every worker.
pub struct Union(SchemaRef);

/// The inputs have the types of `schema`, column by column.
pub fn factory(schema: SchemaRef) -> Factory {
    Arc::new(move || Box::new(Union(SchemaRef::clone(&schema))))
}

impl Operator for Union {
    fn name(&self) -> &'static str {
        "union all"
    }

    fn exchange(&self, _: Port) -> Exchange {
        Exchange::Any
    }

    fn on_delta(&mut self, _: Port, delta: Delta, cx: &mut Context<'_>) -> Result<(), Error> {
        cx.emit(Delta { rows: under(&self.0, &delta.rows)?, weights: delta.weights });
        Ok(())
    }

    fn on_flush(&mut self, _: &Epoch, _: &mut Context<'_>) -> Result<(), Error> {
        Ok(())
    }

    fn save(&self, _: &mut dyn Writer) -> Result<(), Error> {
        Ok(())
    }

    fn load(&mut self, _: &mut dyn Reader) -> Result<(), Error> {
        Ok(())
    }
}
