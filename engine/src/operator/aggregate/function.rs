//! [`Function`]: the built-in aggregate functions and their types.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};

use super::count::Counts;
use super::extreme::{End, Extremes};
use super::float::Floats;
use super::sum::{Show, Sums};
use crate::expr::{Accumulator, Aggregate};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Function {
    /// `count(*)` without an input, `count(x)` with one.
    Count,
    Sum,
    Avg,
    Min,
    Max,
}

/// Digits behind the point of an average of integers; of decimals at least as many.
const AVERAGE_SCALE: i8 = 16;

/// The type of `function` over an input of a type (none: `count(*)`), or why there is none.
pub fn result_type(function: Function, input: Option<&DataType>) -> Result<DataType, String> {
    use DataType::{Binary, Date32, Decimal128, Float32, Float64, Int16, Int32, Int64, Time64, Timestamp, Utf8};
    let refused = || {
        let input = input.map_or("*".to_owned(), DataType::to_string);
        Err(format!("there is no {}({input})", function.name()))
    };
    match (function, input) {
        (Function::Count, _) => Ok(Int64),
        (_, None) => refused(),
        (Function::Sum, Some(input)) => match input {
            Int16 | Int32 => Ok(Int64),
            Int64 => Ok(Decimal128(38, 0)),
            Decimal128(_, scale @ 0..) => Ok(Decimal128(38, *scale)),
            Float32 | Float64 => Ok(Float64),
            _ => refused(),
        },
        (Function::Avg, Some(input)) => match input {
            Int16 | Int32 | Int64 => Ok(Decimal128(38, AVERAGE_SCALE)),
            Decimal128(_, scale @ 0..) => Ok(Decimal128(38, AVERAGE_SCALE.max(*scale))),
            Float32 | Float64 => Ok(Float64),
            _ => refused(),
        },
        (Function::Min | Function::Max, Some(input)) => match input {
            Int16 | Int32 | Int64 | Float32 | Float64 | Decimal128(_, _) | Utf8 | Binary | Date32 => Ok(input.clone()),
            Time64(TimeUnit::Microsecond) | Timestamp(TimeUnit::Microsecond, _) => Ok(input.clone()),
            _ => refused(),
        },
    }
}

/// The built-in function over an input of a type. `append_only`: no row will ever go, which lets `min` and `max` keep
/// one value a group.
pub fn builtin(function: Function, input: Option<&DataType>, append_only: bool) -> Result<Arc<dyn Aggregate>, String> {
    let data_type = result_type(function, input)?;
    Ok(Arc::new(Builtin { function, input: input.cloned(), data_type, append_only }))
}

impl Function {
    pub fn name(self) -> &'static str {
        match self {
            Self::Count => "count",
            Self::Sum => "sum",
            Self::Avg => "avg",
            Self::Min => "min",
            Self::Max => "max",
        }
    }
}

#[derive(Debug)]
struct Builtin {
    function: Function,
    input: Option<DataType>,
    data_type: DataType,
    append_only: bool,
}

impl Aggregate for Builtin {
    fn name(&self) -> &'static str {
        self.function.name()
    }

    fn data_type(&self) -> DataType {
        self.data_type.clone()
    }

    fn accumulator(&self) -> Box<dyn Accumulator> {
        let input_scale = match self.input {
            Some(DataType::Decimal128(_, scale)) => scale,
            _ => 0,
        };
        match (self.function, &self.data_type) {
            (Function::Count, _) => Box::new(Counts::default()),
            (Function::Sum | Function::Avg, DataType::Float64) => Box::new(Floats::new(self.function == Function::Avg)),
            (Function::Avg, DataType::Decimal128(_, scale)) => {
                Box::new(Sums::new(Show::Average { from: input_scale, scale: *scale }))
            }
            (Function::Sum, DataType::Decimal128(_, scale)) => Box::new(Sums::new(Show::Decimal { scale: *scale })),
            (Function::Sum | Function::Avg, _) => Box::new(Sums::new(Show::Int64)),
            (Function::Min, value) => Box::new(Extremes::new(End::Min, value.clone(), self.append_only)),
            (Function::Max, value) => Box::new(Extremes::new(End::Max, value.clone(), self.append_only)),
        }
    }
}
