/* Decodes a part of a JPEG file with libjpeg-turbo, bit for bit as a decoding of the whole.

   Blocks outside the part are read, as the Huffman code of each depends on those before it, but not
   transformed. What is not an ordinary, undamaged file is left to the caller's other decoder: the
   function then returns False, whatever the reason. */

#define PY_SSIZE_T_CLEAN
#define Py_LIMITED_API 0x030B0000
#include <Python.h>
#include <setjmp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jpeglib.h>

#if !defined(LIBJPEG_TURBO_VERSION_NUMBER) || LIBJPEG_TURBO_VERSION_NUMBER < 2001000
#error "libjpeg-turbo 2.1 or newer is required"
#endif

/* Columns that are decoded on both sides of the part: at the edges of what it decodes,
   libjpeg-turbo interpolates chroma without the neighbours. */
#define MARGIN 2

typedef struct {
    struct jpeg_decompress_struct jpeg; /* first: libjpeg hands out pointers to it */
    struct jpeg_error_mgr errors;
    jmp_buf failed;
    uint8_t *row;
} Decoder;

typedef struct {
    uint8_t *pixels; /* [height][width][channels] */
    JDIMENSION top, left, height, width;
    int channels;
} Part;

static void fail(j_common_ptr jpeg) { longjmp(((Decoder *)jpeg)->failed, 1); }

/* Warnings, which have negative levels, are of damage that libjpeg would fill with grey. */
static void on_message(j_common_ptr jpeg, int level)
{
    if (level < 0) fail(jpeg);
}

static void say_nothing(j_common_ptr jpeg) { (void)jpeg; }

/* Returns whether the image is grey, or Y, Cb and Cr with chroma at full or half resolution. */
static int is_ordinary(const struct jpeg_decompress_struct *jpeg)
{
    const jpeg_component_info *part = jpeg->comp_info;
    if (jpeg->data_precision != 8) return 0;
    if (jpeg->num_components == 1) return jpeg->jpeg_color_space == JCS_GRAYSCALE;
    if (jpeg->num_components != 3 || jpeg->jpeg_color_space != JCS_YCbCr) return 0;
    for (int i = 1; i < 3; i++)
        if (part[i].h_samp_factor != 1 || part[i].v_samp_factor != 1) return 0;
    return part[0].h_samp_factor <= 2 && part[0].v_samp_factor <= 2;
}

/* Reads `count` rows; copies `bytes` bytes of each from `offset` on to `to` unless it is NULL. */
static void read_rows(Decoder *decoder, JDIMENSION count, uint8_t *to, size_t offset, size_t bytes)
{
    for (JDIMENSION y = 0; y < count; y++) {
        if (jpeg_read_scanlines(&decoder->jpeg, &decoder->row, 1) != 1) fail((j_common_ptr)decoder);
        if (to) memcpy(to + y * bytes, decoder->row + offset, bytes);
    }
}

/* Decodes the part, of an image of `height` x `width` pixels at the scale `eighths / 8`. Returns
   whether all of the file is ordinary and undamaged. */
static int decode(Decoder *decoder, const uint8_t *data, size_t size, JDIMENSION height,
                  JDIMENSION width, int eighths, Part part)
{
    struct jpeg_decompress_struct *jpeg = &decoder->jpeg;
    jpeg->err = jpeg_std_error(&decoder->errors);
    decoder->errors.error_exit = fail;
    decoder->errors.emit_message = on_message;
    decoder->errors.output_message = say_nothing;
    if (setjmp(decoder->failed)) return 0;
    jpeg_create_decompress(jpeg);
    jpeg_mem_src(jpeg, data, size);
    jpeg_read_header(jpeg, TRUE);
    if (jpeg->image_height != height || jpeg->image_width != width || !is_ordinary(jpeg)) return 0;
    jpeg->out_color_space = part.channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg->scale_num = eighths;
    jpeg->scale_denom = 8;
    jpeg_start_decompress(jpeg);
    if (part.top > jpeg->output_height || part.height > jpeg->output_height - part.top) return 0;
    if (part.left > jpeg->output_width || part.width > jpeg->output_width - part.left) return 0;

    JDIMENSION start = part.left < MARGIN ? 0 : part.left - MARGIN;
    JDIMENSION columns = part.left + part.width + MARGIN;
    columns = (columns > jpeg->output_width ? jpeg->output_width : columns) - start;
    decoder->row = malloc((size_t)jpeg->output_width * part.channels);
    if (!decoder->row) return 0;
    if (columns < jpeg->output_width) jpeg_crop_scanline(jpeg, &start, &columns);
    if (part.top) jpeg_skip_scanlines(jpeg, part.top);
    read_rows(decoder, part.height, part.pixels, (size_t)(part.left - start) * part.channels,
              (size_t)part.width * part.channels);
    /* the last row is read, not skipped, as libjpeg-turbo stops where everything is skipped */
    const JDIMENSION left = jpeg->output_height - jpeg->output_scanline;
    if (left > 1) jpeg_skip_scanlines(jpeg, left - 1);
    if (left > 0) read_rows(decoder, 1, NULL, 0, 0);
    jpeg_finish_decompress(jpeg);
    return 1;
}

static PyObject *py_decode(PyObject *module, PyObject *args)
{
    PyObject *target;
    Py_buffer data, to;
    unsigned int height, width, top, left;
    int eighths, done = 0;
    if (!PyArg_ParseTuple(args, "y*OIIIIi", &data, &target, &height, &width, &top, &left, &eighths))
        return NULL;
    if (PyObject_GetBuffer(target, &to, PyBUF_ND | PyBUF_WRITABLE) < 0) {
        PyBuffer_Release(&data);
        return NULL;
    }
    const int known = to.itemsize == 1 && to.ndim == 3 && (to.shape[2] == 1 || to.shape[2] == 3) &&
                      to.shape[0] <= JPEG_MAX_DIMENSION && to.shape[1] <= JPEG_MAX_DIMENSION;
    Decoder *decoder = known ? calloc(1, sizeof(Decoder)) : NULL;
    if (decoder) {
        const Part part = {to.buf, top, left, to.shape[0], to.shape[1], (int)to.shape[2]};
        Py_BEGIN_ALLOW_THREADS
        done = decode(decoder, data.buf, data.len, height, width, eighths, part);
        jpeg_destroy_decompress(&decoder->jpeg);
        free(decoder->row);
        free(decoder);
        Py_END_ALLOW_THREADS
    }
    PyBuffer_Release(&to);
    PyBuffer_Release(&data);
    if (!known) {
        PyErr_SetString(PyExc_ValueError, "the target must be uint8 [h, w, 1 or 3]");
        return NULL;
    }
    return PyBool_FromLong(done);
}

static PyMethodDef methods[] = {
    {"decode", py_decode, METH_VARARGS,
     "decode(data, target, height, width, top, left, eighths) -> bool\n\n"
     "Fills `target`, uint8 `[h, w, 1 or 3]`, with the part at (`top`, `left`) of a JPEG file of "
     "`height` x\n`width` pixels, decoded at the scale `eighths / 8`. Returns False, with a target "
     "that means nothing,\nunless all of the file is ordinary and undamaged."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT,
    .m_name = "_jpeg",
    .m_doc = "Parts of JPEG files.",
    .m_methods = methods,
};

PyMODINIT_FUNC PyInit__jpeg(void) { return PyModule_Create(&definition); }
