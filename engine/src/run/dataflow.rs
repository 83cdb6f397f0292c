//! [`Dataflow`]: a graph that runs. Every operator has one instance a worker; a step takes the nodes in topological
//! order, exchanges what came out of their inputs and runs the workers, side by side where there is enough to do.
//!
//! Rows are fed in slices: stateless operators pass them on at once, stateful ones gather. [`Dataflow::flush`] ends the
//! epoch. What comes out does not depend on the number of workers.

use super::{Error, exchange, guarded};
use crate::delta::Delta;
use crate::graph::{Graph, Node, RelationId};
use crate::operator::{self, Context, Exchange, Operator, Port};
use crate::time::Epoch;

/// What one operator has done since it began, all workers together.
#[derive(Clone, Debug, Default)]
pub struct OperatorMetrics {
    pub label: String,
    pub rows_in: u64,
    pub rows_out: u64,
    /// Microseconds it has kept the driver waiting.
    pub busy_us: u64,
}

/// A running graph. After an error it is not to be used again.
pub struct Dataflow {
    env: log::Env,
    stages: Vec<Stage>,
    workers: usize,
    /// Rows a stage must have to take before its workers run side by side.
    parallel_rows_min: usize,
    /// Where the next slice of an input goes.
    next_worker: usize,
    /// No operator has been flushed yet: the first flush reaches all of them, so that what stands over nothing shows.
    fresh: bool,
    output: Vec<Delta>,
    rows_touched: u64,
}

/// One node.
struct Stage {
    kind: Kind,
    /// What came out in this step, for each worker; taken away when the step ends.
    out: Vec<Vec<Delta>>,
    metrics: OperatorMetrics,
}

enum Kind {
    Input(RelationId),
    Operator(Operators),
}

struct Operators {
    label: String,
    /// Indices of the stages that feed the ports.
    inputs: Vec<usize>,
    exchanges: Vec<Exchange>,
    workers: Vec<Worker>,
}

/// One worker's instance and what it has to take in.
struct Worker {
    operator: Box<dyn Operator>,
    pending: Vec<(Port, Delta)>,
    /// A delta came since the last flush.
    touched: bool,
    /// Whether the first flush reaches it though nothing came.
    first: bool,
    /// Rows taken in since the last flush.
    rows: usize,
}

impl Dataflow {
    pub fn new(env: &log::Env, graph: &Graph, workers: usize, parallel_rows_min: usize) -> Self {
        assert!(workers > 0, "a dataflow has a worker");
        let stage = |node: &Node| {
            let kind = Kind::new(node, workers);
            let metrics = OperatorMetrics { label: kind.label(), ..OperatorMetrics::default() };
            Stage { kind, out: vec![Vec::new(); workers], metrics }
        };
        Self {
            env: env.clone(),
            stages: graph.nodes.iter().map(stage).collect(),
            workers,
            parallel_rows_min,
            next_worker: 0,
            fresh: true,
            output: Vec::new(),
            rows_touched: 0,
        }
    }

    /// Takes in a slice of a relation's change of this epoch, its parts spread over the workers. Does nothing where the
    /// graph does not read the relation.
    pub fn feed(&mut self, relation: RelationId, deltas: &[Delta]) -> Result<(), Error> {
        let mut found = false;
        for delta in deltas.iter().filter(|delta| !delta.is_empty()) {
            for stage in &mut self.stages {
                if matches!(stage.kind, Kind::Input(input) if input == relation) {
                    stage.out[self.next_worker].push(delta.clone());
                    found = true;
                }
            }
            self.next_worker = (self.next_worker + 1) % self.workers;
        }
        if found { self.step(None) } else { Ok(()) }
    }

    /// Ends the epoch; returns its output, not consolidated.
    pub fn flush(&mut self, epoch: &Epoch) -> Result<Vec<Delta>, Error> {
        self.step(Some(epoch))?;
        self.fresh = false;
        Ok(std::mem::take(&mut self.output))
    }

    /// Rows of state read or written so far.
    pub fn rows_touched(&self) -> u64 {
        self.rows_touched
    }

    /// Of the operators, in the order of the graph; inputs are left out.
    pub fn operators(&self) -> Vec<OperatorMetrics> {
        let operators = self.stages.iter().filter(|stage| matches!(stage.kind, Kind::Operator(_)));
        operators.map(|stage| stage.metrics.clone()).collect()
    }

    /// Bytes of state, about.
    pub fn state_bytes(&self) -> usize {
        let operators = |stage: &Stage| match &stage.kind {
            Kind::Input(_) => 0,
            Kind::Operator(operators) => operators.workers.iter().map(|worker| worker.operator.state_bytes()).sum(),
        };
        self.stages.iter().map(operators).sum()
    }

    fn step(&mut self, flush: Option<&Epoch>) -> Result<(), Error> {
        for at in 0..self.stages.len() {
            let (before, rest) = self.stages.split_at_mut(at);
            let stage = &mut rest[0];
            if let Kind::Operator(operators) = &mut stage.kind {
                let begun = self.env.monotonic();
                stage.metrics.rows_in += operators.take_in(before)?;
                let touched = operators.run(flush, self.fresh, self.parallel_rows_min, &mut stage.out)?;
                self.rows_touched += touched;
                stage.metrics.rows_out += stage.out.iter().flatten().map(|delta| delta.len() as u64).sum::<u64>();
                stage.metrics.busy_us += (self.env.monotonic() - begun).as_micros() as u64;
            }
        }
        if let Some(last) = self.stages.last_mut() {
            self.output.extend(last.out.iter_mut().flat_map(std::mem::take));
        }
        self.stages.iter_mut().flat_map(|stage| &mut stage.out).for_each(Vec::clear);
        Ok(())
    }
}

impl Kind {
    fn new(node: &Node, workers: usize) -> Self {
        let (factory, inputs, label) = match node {
            Node::Input { relation, .. } => return Self::Input(*relation),
            Node::Operator { factory, inputs, label, .. } => (factory, inputs, label),
        };
        let instances: Vec<_> = (0..workers).map(|_| factory()).collect();
        let exchanges: Vec<_> = (0..inputs.len()).map(|port| instances[0].exchange(Port(port))).collect();
        let single = exchanges.iter().any(|exchange| matches!(exchange, Exchange::Single));
        let label = if label.is_empty() { instances[0].name().to_owned() } else { label.clone() };
        let worker = |(index, operator)| Worker {
            operator,
            pending: Vec::new(),
            touched: false,
            // One row over nothing is shown by one worker.
            first: index == 0 || !(single || inputs.is_empty()),
            rows: 0,
        };
        Self::Operator(Operators {
            label,
            inputs: inputs.iter().map(|input| input.0).collect(),
            exchanges,
            workers: instances.into_iter().enumerate().map(worker).collect(),
        })
    }
}

impl Kind {
    fn label(&self) -> String {
        match self {
            Self::Input(relation) => format!("input {}", relation.0),
            Self::Operator(operators) => operators.label.clone(),
        }
    }
}

impl Operators {
    /// Exchanges what the inputs have put out in this step; returns how many rows.
    fn take_in(&mut self, before: &[Stage]) -> Result<u64, Error> {
        let count = self.workers.len();
        let mut rows = 0;
        for (port, (input, exchange)) in self.inputs.iter().zip(&self.exchanges).enumerate() {
            for (worker, deltas) in before[*input].out.iter().enumerate() {
                for delta in deltas.iter().filter(|delta| !delta.is_empty()) {
                    rows += delta.len() as u64;
                    exchange::spread(delta.clone(), worker, count, exchange, |worker, part| {
                        self.workers[worker].pending.push((Port(port), part));
                    })
                    .map_err(|source| Error::Operator { operator: self.label.clone(), source })?;
                }
            }
        }
        Ok(rows)
    }

    /// Runs the workers, side by side where that pays; returns how many rows of state they touched.
    fn run(
        &mut self,
        flush: Option<&Epoch>,
        fresh: bool,
        parallel_rows_min: usize,
        out: &mut [Vec<Delta>],
    ) -> Result<u64, Error> {
        let due: Vec<usize> = self.workers.iter_mut().map(|worker| worker.rows_due(flush.is_some())).collect();
        let busy = due.iter().filter(|rows| **rows > 0).count();
        let label = self.label.as_str();
        let work = self.workers.iter_mut().zip(out);
        if busy < 2 || due.iter().sum::<usize>() < parallel_rows_min {
            return work.map(|(worker, out)| worker.run(label, flush, fresh, out)).sum();
        }
        std::thread::scope(|scope| {
            let start = |(worker, out)| scope.spawn(move || Worker::run(worker, label, flush, fresh, out));
            let threads: Vec<_> = work.map(start).collect();
            threads.into_iter().map(|thread| thread.join().expect("a worker catches its panics")).sum()
        })
    }
}

impl Worker {
    /// Rows that the coming run has to work on: what is pending, at a flush all that was gathered.
    fn rows_due(&mut self, flush: bool) -> usize {
        let pending = self.pending.iter().map(|(_, delta)| delta.len()).sum::<usize>();
        self.rows += pending;
        if flush { std::mem::take(&mut self.rows) } else { pending }
    }

    fn run(&mut self, label: &str, flush: Option<&Epoch>, fresh: bool, out: &mut Vec<Delta>) -> Result<u64, Error> {
        if self.pending.is_empty() && (flush.is_none() || !(self.touched || fresh && self.first)) {
            return Ok(0);
        }
        guarded(label, || {
            let result = self.work(flush, fresh, out);
            result.map_err(|source| Error::Operator { operator: label.to_owned(), source })
        })
    }

    fn work(&mut self, flush: Option<&Epoch>, fresh: bool, out: &mut Vec<Delta>) -> Result<u64, operator::Error> {
        let mut cx = Context::new(out);
        for (port, delta) in self.pending.drain(..) {
            self.touched = true;
            self.operator.on_delta(port, delta, &mut cx)?;
        }
        if let Some(epoch) = flush
            && (std::mem::take(&mut self.touched) || fresh && self.first)
        {
            self.operator.on_flush(epoch, &mut cx)?;
        }
        Ok(cx.rows_touched)
    }
}
