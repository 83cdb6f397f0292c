//! [`Graph`]: a job's operators and how they hang together; what a planner hands over, before it runs.

use std::sync::Arc;

use arrow::datatypes::SchemaRef;

use crate::operator::Factory;

/// A relation known to the engine: a base table, or a view another job keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct RelationId(pub u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(pub usize);

#[derive(Clone)]
pub enum Node {
    /// The deltas of a relation, all its columns.
    Input { relation: RelationId, schema: SchemaRef },
    /// An operator; `inputs[i]` feeds port i.
    Operator { factory: Factory, inputs: Vec<NodeId>, schema: SchemaRef, label: String },
}

/// Nodes in topological order: a node's inputs have lower ids. The last node is the output.
#[derive(Clone, Default)]
pub struct Graph {
    pub nodes: Vec<Node>,
}

impl Graph {
    pub fn input(&mut self, relation: RelationId, schema: SchemaRef) -> NodeId {
        self.push(Node::Input { relation, schema })
    }

    pub fn operator(
        &mut self,
        label: impl Into<String>,
        factory: Factory,
        inputs: Vec<NodeId>,
        schema: SchemaRef,
    ) -> NodeId {
        assert!(inputs.iter().all(|i| i.0 < self.nodes.len()), "inputs come before their operator");
        self.push(Node::Operator { factory, inputs, schema, label: label.into() })
    }

    fn push(&mut self, node: Node) -> NodeId {
        self.nodes.push(node);
        NodeId(self.nodes.len() - 1)
    }

    pub fn schema(&self) -> Option<SchemaRef> {
        self.nodes.last().map(|n| match n {
            Node::Input { schema, .. } | Node::Operator { schema, .. } => Arc::clone(schema),
        })
    }
}
