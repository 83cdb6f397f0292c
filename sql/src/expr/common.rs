//! [`CommonTypes`]: the one type of several values (of a CASE, a COALESCE, a comparison, a UNION) where DataFusion and
//! PostgreSQL choose differently: among floats and numerics the float wins, a quoted literal takes the others' type.

use std::sync::Arc;

use arrow::datatypes::{DataType, TimeUnit};
use datafusion::common::config::ConfigOptions;
use datafusion::common::tree_node::{Transformed, TransformedResult, TreeNode};
use datafusion::common::{DFSchema, ScalarValue};
use datafusion::error::Result as DfResult;
use datafusion::logical_expr::expr::{Between, Case, Cast, InList, ScalarFunction};
use datafusion::logical_expr::expr_rewriter::NamePreserver;
use datafusion::logical_expr::utils::merge_schema;
use datafusion::logical_expr::{
    BinaryExpr, Expr, ExprSchemable, LogicalPlan, LogicalPlanBuilder, Operator, ScalarUDF, Union,
};
use datafusion::optimizer::AnalyzerRule;

use super::operators::quoted_type;
use super::part::Part;
use super::zone::AtTimeZone;
use super::{texts, zeros};

/// Functions whose arguments have one type.
const ALIKE: &[&str] = &["coalesce", "greatest", "least", "nullif", "nvl", "ifnull"];

/// Functions that put the texts of their arguments together.
const CONCATENATES: &[&str] = &["concat", "concat_ws"];

/// Runs before DataFusion's own coercion, which then finds nothing left to choose.
#[derive(Debug)]
pub struct CommonTypes;

impl AnalyzerRule for CommonTypes {
    fn analyze(&self, plan: LogicalPlan, _config: &ConfigOptions) -> DfResult<LogicalPlan> {
        plan.transform_up_with_subqueries(|plan| {
            let schema = merge_schema(&plan.inputs());
            let names = NamePreserver::new(&plan);
            plan.map_expressions(|expr| {
                let name = names.save(&expr);
                let expr = expr.transform_up(|expr| {
                    texts::check(&expr, &schema)?;
                    let unified = unified(expr, &schema)?;
                    let (expr, changed) = zeros::told_apart(unified.data, &schema);
                    Ok(Transformed::new_transformed(expr, changed || unified.transformed))
                })?;
                Ok(expr.update_data(|expr| name.restore(expr)))
            })?
            .transform_data(|plan| match plan {
                LogicalPlan::Union(union) => union_of_floats(union),
                LogicalPlan::Sort(mut sort) => {
                    let changed = zeros::sort_keys(&mut sort.expr, sort.input.schema());
                    Ok(Transformed::new_transformed(LogicalPlan::Sort(sort), changed))
                }
                LogicalPlan::Join(mut join) => {
                    for (left, right) in &mut join.on {
                        let mut sides = [left, right];
                        let types = [sides[0].get_type(join.left.schema()), sides[1].get_type(join.right.schema())];
                        let [Ok(left), Ok(right)] = types else { continue };
                        widen(&mut sides, &[left, right]);
                    }
                    Ok(Transformed::no(LogicalPlan::Join(join)))
                }
                other => Ok(Transformed::no(other)),
            })?
            .map_data(LogicalPlan::recompute_schema)
        })
        .data()
    }

    fn name(&self) -> &str {
        "common_types"
    }
}

fn compares(op: &Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// Gives the parts of `expr` that meet one type, where it is not DataFusion's choice.
fn unified(mut expr: Expr, schema: &DFSchema) -> DfResult<Transformed<Expr>> {
    let changed = match &mut expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => unify(&mut [left, right], schema),
        Expr::Between(Between { expr, low, high, .. }) => unify(&mut [expr, low, high], schema),
        Expr::InList(InList { expr, list, .. }) => {
            let mut all: Vec<&mut Expr> = std::iter::once(expr.as_mut()).chain(list).collect();
            unify(&mut all, schema)
        }
        Expr::Case(Case { expr, when_then_expr, else_expr }) => {
            let (mut whens, mut thens): (Vec<&mut Expr>, Vec<&mut Expr>) =
                when_then_expr.iter_mut().map(|(when, then)| (when.as_mut(), then.as_mut())).unzip();
            thens.extend(else_expr.as_deref_mut());
            let results = unify(&mut thens, schema);
            match expr {
                Some(expr) => {
                    whens.push(expr);
                    unify(&mut whens, schema) || results
                }
                None => results,
            }
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) if ALIKE.contains(&func.name()) => {
            unify(&mut args.iter_mut().collect::<Vec<_>>(), schema)
        }
        Expr::ScalarFunction(ScalarFunction { func, args }) if CONCATENATES.contains(&func.name()) => {
            // All of them: `any` would end at the first.
            args.iter_mut().filter_map(|arg| shorten(arg, schema).then_some(())).count() > 0
        }
        _ => return times(expr),
    };
    Ok(Transformed::new_transformed(expr, changed))
}

/// `concat` writes truth values as PostgreSQL's wire does: `t`, `f`. A cast to text would write them out.
fn shorten(arg: &mut Expr, schema: &DFSchema) -> bool {
    if !matches!(arg.get_type(schema), Ok(DataType::Boolean)) {
        return false;
    }
    let text = |text: &str| Box::new(Expr::Literal(ScalarValue::Utf8(Some(text.to_owned())), None));
    let truth = |truth: bool| Box::new(Expr::Literal(ScalarValue::Boolean(Some(truth)), None));
    let (expr, else_expr) = (Some(Box::new(std::mem::take(arg))), None);
    let when_then_expr = vec![(truth(true), text("t")), (truth(false), text("f"))];
    *arg = Expr::Case(Case { expr, when_then_expr, else_expr });
    true
}

/// `extract` is DataFusion's `date_part`, and `AT TIME ZONE` its cast to nanoseconds in a zone.
fn times(expr: Expr) -> DfResult<Transformed<Expr>> {
    Ok(match expr {
        Expr::ScalarFunction(ScalarFunction { func, args })
            if func.name() == "date_part" && func.inner().downcast_ref::<Part>().is_none() =>
        {
            let func = Arc::new(ScalarUDF::from(Part::extract()));
            Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args }))
        }
        Expr::Cast(Cast { expr: inner, field }) => match field.data_type() {
            DataType::Timestamp(TimeUnit::Nanosecond, Some(zone)) => {
                let func = Arc::new(ScalarUDF::from(AtTimeZone::new(zone)?));
                Transformed::yes(Expr::ScalarFunction(ScalarFunction { func, args: vec![*inner] }))
            }
            _ => Transformed::no(Expr::Cast(Cast { expr: inner, field })),
        },
        other => Transformed::no(other),
    })
}

fn unify(exprs: &mut [&mut Expr], schema: &DFSchema) -> bool {
    let types: Vec<DataType> = match exprs.iter().map(|expr| expr.get_type(schema)).collect() {
        Ok(types) => types,
        // Outer columns and open parameters: left to DataFusion.
        Err(_) => return false,
    };
    widen(exprs, &types) || adopt(exprs, &types)
}

/// Casts decimals beside floats to floats.
fn widen(exprs: &mut [&mut Expr], types: &[DataType]) -> bool {
    if !types.iter().any(DataType::is_floating) || !types.iter().any(DataType::is_decimal) {
        return false;
    }
    for (expr, data_type) in exprs.iter_mut().zip(types) {
        if data_type.is_numeric() && *data_type != DataType::Float64 {
            cast_to(expr, &DataType::Float64);
        }
    }
    true
}

/// Casts quoted literals beside numbers, booleans, dates and times to the type of these.
fn adopt(exprs: &mut [&mut Expr], types: &[DataType]) -> bool {
    let quoted = |expr: &Expr| matches!(expr, Expr::Literal(ScalarValue::Utf8(Some(_)), None));
    let mut others = exprs.iter().zip(types).filter(|(e, t)| !quoted(e) && !t.is_null()).map(|(_, t)| t);
    let Some(target) = others.next().cloned() else { return false };
    let one_kind = match &target {
        number if number.is_numeric() => others.all(DataType::is_numeric),
        DataType::Boolean | DataType::Date32 | DataType::Time64(_) => others.all(|t| *t == target),
        DataType::Timestamp(TimeUnit::Microsecond, _) => others.all(|t| *t == target),
        _ => false,
    };
    if !one_kind || !exprs.iter().any(|expr| quoted(expr)) {
        return false;
    }
    for expr in exprs {
        if let Expr::Literal(ScalarValue::Utf8(Some(text)), None) = &**expr {
            let to = quoted_type(text, &target);
            cast_to(expr, &to);
        }
    }
    true
}

fn cast_to(expr: &mut Expr, to: &DataType) {
    *expr = Expr::Cast(Cast::new(Box::new(std::mem::take(expr)), to.clone()));
}

/// Makes the columns floats in all inputs where they are floats in one and decimals in another.
fn union_of_floats(union: Union) -> DfResult<Transformed<LogicalPlan>> {
    let width = union.schema.fields().len();
    let types =
        |column: usize| union.inputs.iter().map(move |i| i.schema().fields().get(column).map(|f| f.data_type()));
    let mixed = |column: &usize| {
        types(*column).flatten().any(DataType::is_floating) && types(*column).flatten().any(DataType::is_decimal)
    };
    let columns: Vec<usize> = (0..width).filter(mixed).collect();
    if columns.is_empty() {
        return Ok(Transformed::no(LogicalPlan::Union(union)));
    }
    let cast = |input: &Arc<LogicalPlan>| -> DfResult<Arc<LogicalPlan>> {
        let exprs = input.schema().columns().into_iter().enumerate().map(|(i, column)| {
            let number = columns.contains(&i) && input.schema().field(i).data_type().is_numeric();
            let name = column.name.clone();
            match number {
                true => Expr::Cast(Cast::new(Box::new(Expr::Column(column)), DataType::Float64)).alias(name),
                false => Expr::Column(column),
            }
        });
        Ok(Arc::new(LogicalPlanBuilder::from(Arc::clone(input)).project(exprs.collect::<Vec<_>>())?.build()?))
    };
    let inputs = union.inputs.iter().map(cast).collect::<DfResult<Vec<_>>>()?;
    Ok(Transformed::yes(LogicalPlan::Union(Union::try_new_with_loose_types(inputs)?)))
}
