//! One residual block: `[B, inputs, bands_in, T]` to `[B, width, bands_out, T]`, three sweeps forward, three backward
//! (one more each where a 1x1 convolution enters).
//!
//! Names in the sweeps: `entry` is the 1x1 convolution's result before its norm, `aux` the frequency convolution's before its
//! sub-band norm, `pooled` the normalised aux averaged over frequency, `time` the temporal convolution's result before its norm.

use rayon::prelude::*;

use super::buffer::Buffer;
use super::norm::{Norm, NormMode};
use super::sweeps::*;
use super::{Packing, add_up};
use crate::architecture::{Block, SUB_BANDS};

/// Parameters packed as `[entry.conv, entry.scale, entry.shift,] frequency.conv, frequency.scale, frequency.shift, time.conv,
/// time.scale, time.shift, point.conv`.
pub(super) struct FusedBlock {
    /// Shape of the block.
    pub(super) block: Block,
    /// Frames of zero padding on the left of the temporal convolution.
    pub(super) left: usize,
}

/// What backward needs of the forward pass.
pub(super) struct BlockSaved {
    entry: Buffer,
    entry_norm: Option<Norm>,
    aux: Buffer,
    aux_norm: Norm,
    pooled: Buffer,
    time: Buffer,
    time_norm: Norm,
    keep: Vec<f32>,
}

/// The block's parameters, unpacked.
struct Parameters<'a> {
    entry: &'a [f32],
    entry_scale: &'a [f32],
    entry_shift: &'a [f32],
    frequency: &'a [f32],
    frequency_scale: &'a [f32],
    frequency_shift: &'a [f32],
    time: &'a [f32],
    time_scale: &'a [f32],
    time_shift: &'a [f32],
    point: &'a [f32],
}

impl FusedBlock {
    /// Number of packed parameters.
    pub(super) fn parameters(&self) -> usize {
        let w = self.block.width;
        let entry = if self.block.has_entry() {
            w * self.block.inputs + 2 * w
        } else {
            0
        };
        entry + w * (3 + 2 * SUB_BANDS) + w * (3 + 2) + w * w
    }

    fn sizes(&self, frames: usize) -> Sizes {
        let b = &self.block;
        Sizes {
            inputs: b.inputs,
            width: b.width,
            bands_in: b.bands_in,
            bands_out: b.bands_out,
            stride: b.stride,
            dilation: b.dilation,
            left: self.left,
            frames,
        }
    }

    fn unpack<'a>(&self, p: &'a [f32]) -> Parameters<'a> {
        let (w, mut packing) = (self.block.width, Packing::new());
        let entry = if self.block.has_entry() { w } else { 0 };
        let mut next = |length| &p[packing.next(length)];
        Parameters {
            entry: next(entry * self.block.inputs),
            entry_scale: next(entry),
            entry_shift: next(entry),
            frequency: next(w * 3),
            frequency_scale: next(w * SUB_BANDS),
            frequency_shift: next(w * SUB_BANDS),
            time: next(w * 3),
            time_scale: next(w),
            time_shift: next(w),
            point: next(w * w),
        }
    }
}

impl FusedBlock {
    /// `x [B, inputs, bands_in, T]` to `[B, width, bands_out, T]`; `keep` holds a factor of the temporal branch per sample and channel.
    pub(super) fn forward(
        &self,
        x: &[f32],
        p: &[f32],
        mode: &NormMode,
        keep: Vec<f32>,
        batch: usize,
        frames: usize,
    ) -> (Buffer, BlockSaved) {
        let (b, p) = (&self.block, self.unpack(p));
        let s = self.sizes(frames);
        let (sample_in, sample_out, sample_row) = (
            s.inputs * s.channel_in(),
            s.width * s.channel_out(),
            s.width * frames,
        );

        let mut entry = Buffer::new(if b.has_entry() {
            batch * s.width * s.channel_in()
        } else {
            0
        });
        let entry_norm = b.has_entry().then(|| {
            let moments: Vec<_> = entry
                .par_chunks_mut(s.width * s.channel_in())
                .zip(x.par_chunks(sample_in))
                .map(|(entry, x)| forward_entry(entry, x, p.entry, s))
                .collect();
            let name = format!("{}.entry", b.name);
            Norm::new(
                mode,
                &name,
                p.entry_scale,
                p.entry_shift,
                &moments,
                batch * s.channel_in(),
            )
        });

        let enters = if b.has_entry() { &*entry } else { x };
        let mut aux = Buffer::new(batch * sample_out);
        let moments: Vec<_> = aux
            .par_chunks_mut(sample_out)
            .zip(enters.par_chunks(s.width * s.channel_in()))
            .map(|(aux, x)| forward_frequency(aux, x, entry_norm.as_ref(), p.frequency, s))
            .collect();
        let count = batch * s.channel_out() / SUB_BANDS;
        let aux_norm = Norm::new(
            mode,
            &format!("{}.frequency", b.name),
            p.frequency_scale,
            p.frequency_shift,
            &moments,
            count,
        );

        let (mut pooled, mut time) = (
            Buffer::new(batch * sample_row),
            Buffer::new(batch * sample_row),
        );
        let moments: Vec<_> = pooled
            .par_chunks_mut(sample_row)
            .zip(time.par_chunks_mut(sample_row))
            .zip(aux.par_chunks(sample_out))
            .map(|((pooled, time), aux)| forward_time(pooled, time, aux, &aux_norm, p.time, s))
            .collect();
        let time_norm = Norm::new(
            mode,
            &format!("{}.time", b.name),
            p.time_scale,
            p.time_shift,
            &moments,
            batch * frames,
        );

        let mut out = Buffer::new(batch * sample_out);
        out.par_chunks_mut(sample_out)
            .enumerate()
            .for_each(|(i, out)| {
                let residual = (!b.has_entry()).then(|| &x[i * sample_in..][..sample_in]);
                let (aux, time) = (
                    &aux[i * sample_out..][..sample_out],
                    &time[i * sample_row..][..sample_row],
                );
                forward_out(
                    out,
                    aux,
                    &aux_norm,
                    time,
                    &time_norm,
                    p.point,
                    &keep[i * s.width..][..s.width],
                    residual,
                    s,
                );
            });
        (
            out,
            BlockSaved {
                entry,
                entry_norm,
                aux,
                aux_norm,
                pooled,
                time,
                time_norm,
                keep,
            },
        )
    }

    /// Gradients of the input and of the packed parameters; `dout` holds that of the output and is used up.
    pub(super) fn backward(
        &self,
        f: BlockSaved,
        x: &[f32],
        p: &[f32],
        out: &[f32],
        mut dout: Buffer,
        frames: usize,
    ) -> (Buffer, Vec<f32>) {
        let (p, s, has_entry) = (self.unpack(p), self.sizes(frames), self.block.has_entry());
        let (sample_in, sample_out, sample_row) = (
            s.inputs * s.channel_in(),
            s.width * s.channel_out(),
            s.width * frames,
        );

        let batch = x.len() / sample_in;
        let mut dtime = Buffer::new(batch * sample_row);
        let (sums, dpoints): (Vec<_>, Vec<_>) = dout
            .par_chunks_mut(sample_out)
            .zip(dtime.par_chunks_mut(sample_row))
            .enumerate()
            .map(|(i, (dout, dtime))| {
                let out = &out[i * sample_out..][..sample_out];
                let (time, keep) = (
                    &f.time[i * sample_row..][..sample_row],
                    &f.keep[i * s.width..][..s.width],
                );
                backward_out(dout, dtime, out, time, &f.time_norm, p.point, keep, s)
            })
            .unzip();
        let time_norm = f.time_norm.backward(p.time_scale, &sums);

        let (sums, dtimes): (Vec<_>, Vec<_>) = dtime
            .par_chunks_mut(sample_row)
            .enumerate()
            .map(|(i, dtime)| {
                let (dout, aux) = (
                    &dout[i * sample_out..][..sample_out],
                    &f.aux[i * sample_out..][..sample_out],
                );
                let (time, pooled) = (
                    &f.time[i * sample_row..][..sample_row],
                    &f.pooled[i * sample_row..][..sample_row],
                );
                backward_time(dtime, dout, aux, time, pooled, &time_norm.terms, p.time, s)
            })
            .unzip();
        let aux_norm = f.aux_norm.backward(p.frequency_scale, &sums);
        let dpooled = dtime;

        let sample_enters = s.width * s.channel_in();
        let enters = if has_entry { &*f.entry } else { x };
        let sweep = |i: usize, dx: &mut [f32], dout: &mut [f32]| {
            let aux = &f.aux[i * sample_out..][..sample_out];
            let (dpooled, x) = (
                &dpooled[i * sample_row..][..sample_row],
                &enters[i * sample_enters..][..sample_enters],
            );
            let norm = f.entry_norm.as_ref();
            backward_frequency(
                dx,
                dout,
                dpooled,
                aux,
                &aux_norm.terms,
                x,
                norm,
                p.frequency,
                s,
            )
        };
        let dout_samples = dout.par_chunks_mut(sample_out).enumerate();
        let (mut denters, (dfrequencies, sums)): (_, (Vec<_>, Vec<_>)) = if has_entry {
            let mut denters = Buffer::new(batch * sample_enters);
            let found = dout_samples
                .zip(denters.par_chunks_mut(sample_enters))
                .map(|((i, dout), dx)| sweep(i, dx, dout))
                .unzip();
            (denters, found)
        } else {
            // The residual connection: the gradient of the output becomes that of the input where it stands.
            let found = dout_samples
                .map(|(i, dout)| sweep(i, &mut [], dout))
                .unzip();
            (dout, found)
        };

        let mut dp = Vec::new();
        let dx = match &f.entry_norm {
            None => denters,
            Some(norm) => {
                let norm = norm.backward(p.entry_scale, &sums);
                let mut dx = Buffer::new(batch * sample_in);
                let dentries: Vec<_> = dx
                    .par_chunks_mut(sample_in)
                    .zip(denters.par_chunks_mut(sample_enters))
                    .enumerate()
                    .map(|(i, (dx, dentry))| {
                        let (entry, x) = (
                            &f.entry[i * sample_enters..][..sample_enters],
                            &x[i * sample_in..][..sample_in],
                        );
                        backward_entry(dx, dentry, entry, &norm.terms, x, p.entry, s)
                    })
                    .collect();
                dp.resize(s.width * s.inputs, 0.0);
                add_up(&mut dp, dentries);
                dp.extend(norm.dscale);
                dp.extend(norm.dshift);
                dx
            }
        };
        let mut add_kernel = |samples: Vec<Vec<f32>>, length: usize, after: [Vec<f32>; 2]| {
            let mut total = vec![0f32; length];
            add_up(&mut total, samples);
            dp.extend(total);
            after.into_iter().for_each(|values| dp.extend(values));
        };
        add_kernel(
            dfrequencies,
            s.width * 3,
            [aux_norm.dscale, aux_norm.dshift],
        );
        add_kernel(dtimes, s.width * 3, [time_norm.dscale, time_norm.dshift]);
        add_kernel(dpoints, s.width * s.width, [vec![], vec![]]);
        (dx, dp)
    }
}
