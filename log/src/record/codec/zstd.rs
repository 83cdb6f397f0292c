//! Zstandard, in one shot: matches refer to the output itself, so that no window is allocated. A stream decoder would
//! take the window a frame names, up to 128 MiB, before the first byte; clients at high levels name such windows for
//! batches of any size, so that a bound on the window would refuse honest ones.

use zstd::zstd_safe::{DCtx, get_error_name, get_frame_content_size, zstd_sys::ZSTD_ErrorCode};

use super::super::BatchError;
use super::invalid;

/// Where the output begins to grow from, besides twice the input: most batches fit at once.
const ROOM: usize = 256 << 10;

pub(super) fn unpack(packed: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    unpack_with(&mut DCtx::create(), packed, limit)
}

/// Begins anew with twice the room while that is too small: all attempts together cost at most what twice the output
/// does, and there is never room for more than twice what is really there.
fn unpack_with(context: &mut DCtx<'_>, packed: &[u8], limit: usize) -> Result<Vec<u8>, BatchError> {
    let claimed = get_frame_content_size(packed).ok().flatten().and_then(|size| usize::try_from(size).ok());
    let guess = packed.len().saturating_mul(2).saturating_add(ROOM);
    let mut room = claimed.map_or(guess, |claimed| claimed.min(guess)).min(limit);
    loop {
        let mut out = Vec::with_capacity(room);
        match context.decompress(&mut out, packed) {
            Ok(_) if out.len() > limit => return Err(BatchError::Expands { limit }),
            Ok(_) => return Ok(out),
            Err(code) if !is_too_small(code) => return Err(invalid(get_error_name(code))),
            Err(_) if room == limit => return Err(BatchError::Expands { limit }),
            Err(_) => room = room.max(ROOM / 2).saturating_mul(2).min(limit),
        }
    }
}

/// Errors are negated codes.
fn is_too_small(code: usize) -> bool {
    code.wrapping_neg() == ZSTD_ErrorCode::ZSTD_error_dstSize_tooSmall as usize
}

#[cfg(test)]
mod tests {
    use super::*;
    use zstd::zstd_safe::{CCtx, CParameter};

    #[test]
    fn the_largest_window_costs_nothing() {
        let plain = b"records and more records and more records";
        let mut encoder = CCtx::create();
        for parameter in
            [CParameter::CompressionLevel(22), CParameter::WindowLog(27), CParameter::ContentSizeFlag(false)]
        {
            encoder.set_parameter(parameter).unwrap();
        }
        // Without the size of the content the frame names the window as it was set.
        let mut packed = Vec::new();
        let mut writer = zstd::stream::write::Encoder::with_context(&mut packed, &mut encoder);
        std::io::Write::write_all(&mut writer, plain).unwrap();
        writer.finish().unwrap();
        assert_eq!(packed[5] >> 3, 17, "the frame names a window of 2^(10 + 17) bytes");
        let mut context = DCtx::create();
        assert_eq!(unpack_with(&mut context, &packed, 1 << 20).unwrap(), plain);
        assert!(context.sizeof() < 512 << 10, "{} bytes", context.sizeof());
    }
}
