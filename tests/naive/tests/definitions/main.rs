//! The contract's definitions, one by one, on the smallest streams that show them.

mod conditions;
mod records;
mod rules;
mod support;
