//! Rows as Parquet: a typed column for each column of the table, all of which may be null, compressed with zstd.
//!
//! Rows are gathered to row groups, which are bounded by rows and by bytes and bound the memory: the format wants a group's
//! columns one after the other. What stays for the whole file is some hundred bytes a group and column.

use std::io::{self, Write};
use std::sync::Arc;

use clawdstrike_telemetry::time;
use parquet::basic::{Compression, LogicalType, Repetition, TimeUnit, Type as Physical, ZstdLevel};
use parquet::data_type::{BoolType, ByteArray, ByteArrayType, DataType, DoubleType, Int64Type};
use parquet::errors::ParquetError;
use parquet::file::properties::{EnabledStatistics, WriterProperties};
use parquet::file::writer::{SerializedColumnWriter, SerializedFileWriter, SerializedRowGroupWriter};
use parquet::schema::types::{Type, TypePtr};

use crate::store::{Column, ExportedRow, Kept, Kind};

/// Most rows of a row group.
const GROUP_ROWS: usize = 50_000;
/// Most bytes of values of a row group (unless its last row has more): some times as much is in memory while it is written.
const GROUP_BYTES: usize = 16 << 20;

/// A column of the row group that is being gathered.
struct Gathered {
    column: &'static Column,
    values: Values,
    /// For each row: 1 if it has a value, else 0.
    levels: Vec<i16>,
}

enum Values {
    Texts(Vec<ByteArray>),
    Integers(Vec<i64>),
    Doubles(Vec<f64>),
    Truths(Vec<bool>),
}

/// Writes a file of rows.
pub(super) struct Rows<W: Write + Send> {
    file: SerializedFileWriter<W>,
    columns: Vec<Gathered>,
    rows: usize,
    bytes: usize,
}

impl<W: Write + Send> Rows<W> {
    /// Begins a file.
    pub(super) fn begin(table: Kept, to: W) -> io::Result<Rows<W>> {
        let zstd = ZstdLevel::try_new(3).map_err(told)?;
        let properties = WriterProperties::builder()
            .set_created_by(concat!("clawdstrike-edr ", env!("CARGO_PKG_VERSION")).to_owned())
            .set_compression(Compression::ZSTD(zstd))
            // A file's end would grow with each page.
            .set_statistics_enabled(EnabledStatistics::Chunk)
            .set_offset_index_disabled(true)
            .build();
        let file = SerializedFileWriter::new(to, schema(table).map_err(told)?, Arc::new(properties)).map_err(told)?;
        Ok(Rows { file, columns: table.columns().iter().map(Gathered::new).collect(), rows: 0, bytes: 0 })
    }

    /// One more row; from time to time this writes a group of them.
    pub(super) fn row(&mut self, row: ExportedRow) -> io::Result<()> {
        for (gathered, value) in self.columns.iter_mut().zip(row) {
            self.bytes += value.as_ref().map_or(0, String::len);
            gathered.push(value)?;
        }
        self.rows += 1;
        match self.rows >= GROUP_ROWS || self.bytes >= GROUP_BYTES {
            true => self.group().map_err(told),
            false => Ok(()),
        }
    }

    /// Writes what is left, and the file's end.
    pub(super) fn finish(mut self) -> io::Result<W> {
        if self.rows > 0 {
            self.group().map_err(told)?;
        }
        self.file.into_inner().map_err(told)
    }

    fn group(&mut self) -> Result<(), ParquetError> {
        let mut group = self.file.next_row_group()?;
        for gathered in &mut self.columns {
            gathered.write(&mut group)?;
        }
        group.close()?;
        (self.rows, self.bytes) = (0, 0);
        Ok(())
    }
}

impl Gathered {
    fn new(column: &'static Column) -> Gathered {
        let values = match column.kind {
            Kind::Text | Kind::Json => Values::Texts(Vec::new()),
            Kind::Time | Kind::Integer => Values::Integers(Vec::new()),
            Kind::Double => Values::Doubles(Vec::new()),
            Kind::Truth => Values::Truths(Vec::new()),
        };
        Gathered { column, values, levels: Vec::new() }
    }

    fn push(&mut self, value: Option<String>) -> io::Result<()> {
        self.levels.push(i16::from(value.is_some()));
        let Some(text) = value else { return Ok(()) };
        let Column { name, kind, .. } = self.column;
        let wrong = || io::Error::other(format!("column \"{name}\" holds \"{text}\", which is no {kind:?}"));
        match &mut self.values {
            Values::Texts(texts) => texts.push(ByteArray::from(text.into_bytes())),
            Values::Integers(numbers) if *kind == Kind::Time => numbers.push(time::parse(&text).ok_or_else(wrong)?),
            Values::Integers(numbers) => numbers.push(text.parse().map_err(|_| wrong())?),
            Values::Doubles(numbers) => numbers.push(text.parse().map_err(|_| wrong())?),
            Values::Truths(truths) => truths.push(text.parse().map_err(|_| wrong())?),
        }
        Ok(())
    }

    /// Writes the column, and begins it anew.
    fn write<W: Write + Send>(&mut self, group: &mut SerializedRowGroupWriter<'_, W>) -> Result<(), ParquetError> {
        let mut column = group.next_column()?.ok_or(ParquetError::IndexOutOfBound(0, 0))?;
        let levels = &self.levels;
        match &mut self.values {
            Values::Texts(values) => write::<ByteArrayType>(&mut column, levels, values)?,
            Values::Integers(values) => write::<Int64Type>(&mut column, levels, values)?,
            Values::Doubles(values) => write::<DoubleType>(&mut column, levels, values)?,
            Values::Truths(values) => write::<BoolType>(&mut column, levels, values)?,
        }
        self.levels.clear();
        column.close()
    }
}

fn write<T: DataType>(
    column: &mut SerializedColumnWriter<'_>,
    levels: &[i16],
    values: &mut Vec<T::T>,
) -> Result<(), ParquetError> {
    column.typed::<T>().write_batch(values, Some(levels), None)?;
    values.clear();
    Ok(())
}

/// Others write to these tables too: what the database lets be null may be null here.
fn schema(table: Kept) -> Result<TypePtr, ParquetError> {
    let columns = table.columns().iter().map(|column| {
        let (physical, logical) = match column.kind {
            Kind::Text => (Physical::BYTE_ARRAY, Some(LogicalType::String)),
            Kind::Json => (Physical::BYTE_ARRAY, Some(LogicalType::Json)),
            Kind::Time => (Physical::INT64, Some(LogicalType::timestamp(true, TimeUnit::MICROS))),
            Kind::Integer => (Physical::INT64, None),
            Kind::Double => (Physical::DOUBLE, None),
            Kind::Truth => (Physical::BOOLEAN, None),
        };
        let builder = Type::primitive_type_builder(column.name, physical).with_logical_type(logical);
        builder.with_repetition(Repetition::OPTIONAL).build().map(Arc::new)
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    Ok(Arc::new(Type::group_type_builder(table.name()).with_fields(columns).build()?))
}

/// As what it was, where a write failed: whether nobody reads any more is a matter of the kind.
fn told(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(cause) => match cause.downcast::<io::Error>() {
            Ok(cause) => *cause,
            Err(cause) => io::Error::other(cause),
        },
        other => io::Error::other(other),
    }
}

#[cfg(test)]
mod tests {
    use parquet::file::reader::{FileReader, SerializedFileReader};
    use parquet::record::RowAccessor;

    use super::*;

    fn event(key: &str, metadata: String) -> ExportedRow {
        let texts = ["2026-01-05T10:00:00.000001Z", key, "", "a", "s", "mcp_tool", "t", "true", "g", "low"];
        let mut row: ExportedRow = texts.iter().map(|t| Some((*t).to_owned())).collect();
        row.extend([None, Some(metadata), Some("1".to_owned()), None]);
        row
    }

    #[test]
    fn groups_are_bounded_by_bytes_and_by_rows_and_lose_nothing() {
        let file = tempfile::tempfile().expect("a file");
        let mut rows = Rows::begin(Kept::Events, file).expect("begun");
        for n in 0..40 {
            rows.row(event(&format!("large/{n}"), format!("\"{}\"", "x".repeat(1 << 20)))).expect("written");
            assert!(rows.bytes < GROUP_BYTES);
        }
        for n in 0..GROUP_ROWS {
            rows.row(event(&format!("small/{n}"), "{}".to_owned())).expect("written");
        }
        let file = SerializedFileReader::new(rows.finish().expect("finished")).expect("a file");
        let groups: Vec<_> = file.metadata().row_groups().iter().map(|group| group.num_rows()).collect();
        assert_eq!(groups.iter().sum::<i64>(), 40 + GROUP_ROWS as i64);
        assert_eq!(groups[..2], [16, 16]);
        let rows = file.get_row_iter(None).expect("rows").map(|row| row.expect("a row"));
        let keys: Vec<String> = rows.map(|row| row.get_string(1).expect("a key").clone()).collect();
        let large = (0..40).map(|n| format!("large/{n}"));
        assert!(keys.into_iter().eq(large.chain((0..GROUP_ROWS).map(|n| format!("small/{n}")))));
    }

    #[test]
    fn a_value_of_another_kind_is_told_with_its_column() {
        let mut rows = Rows::begin(Kept::Events, Vec::new()).expect("begun");
        let mut row = event("k", "{}".to_owned());
        row[0] = Some("yesterday".to_owned());
        let error = rows.row(row).expect_err("no time").to_string();
        assert!(error.contains("\"time\"") && error.contains("yesterday"), "{error}");
    }
}
