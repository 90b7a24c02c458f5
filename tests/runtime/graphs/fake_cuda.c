/* A driver without a GPU: device memory is host memory, and a graph replays what its recorder says.
   Where NVIDIA's cuda.h is there (-DREAL_HEADER), the compiler holds every function against it. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef REAL_HEADER
#include <cuda.h>
#else
typedef int CUresult; typedef int CUdevice; typedef uint64_t CUdeviceptr; typedef int CUdevice_attribute;
typedef struct context *CUcontext; typedef struct stream *CUstream; typedef struct graph *CUgraph;
typedef struct exec *CUgraphExec; typedef int CUstreamCaptureMode; typedef unsigned long long cuuint64_t;
#define CUDA_SUCCESS 0
#define CUDA_ERROR_OUT_OF_MEMORY 2
#define CUDA_ERROR_INVALID_CONTEXT 201
#define cuMemAlloc cuMemAlloc_v2
#define cuMemFree cuMemFree_v2
#define cuMemAllocHost cuMemAllocHost_v2
#define cuMemcpyHtoDAsync cuMemcpyHtoDAsync_v2
#define cuMemcpyDtoHAsync cuMemcpyDtoHAsync_v2
#define cuStreamDestroy cuStreamDestroy_v2
#define cuCtxPushCurrent cuCtxPushCurrent_v2
#define cuCtxPopCurrent cuCtxPopCurrent_v2
#define cuStreamBeginCapture cuStreamBeginCapture_v2
#define cuGraphInstantiate cuGraphInstantiateWithFlags
#endif

static __thread CUcontext entered, beneath;
static long capturing, captures;
int fake_blocks, fake_launches, fake_recorded, fake_graphs, fake_refuses_graphs;
size_t fake_memory = 1 << 30, fake_host_memory = 1 << 30;
void (*fake_on_launch)(long);

long fake_capturing(void) { return capturing; }
long fake_context(void) { return (long)entered; }
void fake_set_on_launch(void (*call)(long)) { fake_on_launch = call; }

CUresult cuInit(unsigned int flags) { return CUDA_SUCCESS; }
CUresult cuDriverGetVersion(int *version) { *version = 12060; return CUDA_SUCCESS; }
CUresult cuDeviceGetCount(int *count) { *count = 1; return CUDA_SUCCESS; }
CUresult cuDeviceGet(CUdevice *device, int ordinal) { *device = ordinal; return CUDA_SUCCESS; }
CUresult cuDeviceGetName(char *name, int len, CUdevice dev) { strncpy(name, "Orin", len); return CUDA_SUCCESS; }
CUresult cuDeviceGetAttribute(int *pi, CUdevice_attribute attrib, CUdevice dev) {
    *pi = (int)attrib == 75 ? 8 : (int)attrib == 76 ? 7 : (int)attrib == 16 ? 16 : -1;
    return CUDA_SUCCESS;
}
CUresult cuGetErrorName(CUresult error, const char **pStr) {
    *pStr = error == CUDA_ERROR_OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : "CUDA_ERROR_INVALID_CONTEXT";
    return CUDA_SUCCESS;
}
CUresult cuDevicePrimaryCtxRetain(CUcontext *pctx, CUdevice dev) { *pctx = (CUcontext)1; return CUDA_SUCCESS; }
CUresult cuCtxSetCurrent(CUcontext ctx) { entered = ctx; return CUDA_SUCCESS; }
CUresult cuCtxPushCurrent(CUcontext ctx) { beneath = entered; entered = ctx; return CUDA_SUCCESS; }
CUresult cuCtxPopCurrent(CUcontext *pctx) { *pctx = entered; entered = beneath; return CUDA_SUCCESS; }
CUresult cuMemAlloc(CUdeviceptr *dptr, size_t bytesize) {
    if (!entered) return CUDA_ERROR_INVALID_CONTEXT;
    if (bytesize > fake_memory) return CUDA_ERROR_OUT_OF_MEMORY;
    *dptr = (CUdeviceptr)(uintptr_t)malloc(bytesize);
    fake_blocks++;
    return CUDA_SUCCESS;
}
CUresult cuMemFree(CUdeviceptr dptr) {
    if (!entered) return CUDA_ERROR_INVALID_CONTEXT;
    free((void *)(uintptr_t)dptr);
    fake_blocks--;
    return CUDA_SUCCESS;
}
CUresult cuMemAllocHost(void **pp, size_t bytesize) {
    if (bytesize > fake_host_memory) return CUDA_ERROR_OUT_OF_MEMORY;
    *pp = malloc(bytesize);
    fake_blocks++;
    return CUDA_SUCCESS;
}
CUresult cuMemFreeHost(void *p) {
    if (!entered) return CUDA_ERROR_INVALID_CONTEXT;
    free(p);
    fake_blocks--;
    return CUDA_SUCCESS;
}
CUresult cuMemcpyHtoDAsync(CUdeviceptr dst, const void *src, size_t count, CUstream stream) {
    if (!entered) return CUDA_ERROR_INVALID_CONTEXT;
    memcpy((void *)(uintptr_t)dst, src, count);
    return CUDA_SUCCESS;
}
CUresult cuMemcpyDtoHAsync(void *dst, CUdeviceptr src, size_t count, CUstream stream) {
    memcpy(dst, (void *)(uintptr_t)src, count);
    return CUDA_SUCCESS;
}
CUresult cuStreamCreate(CUstream *phStream, unsigned int Flags) { *phStream = (CUstream)0x5; return CUDA_SUCCESS; }
CUresult cuStreamDestroy(CUstream hStream) { return CUDA_SUCCESS; }
CUresult cuStreamSynchronize(CUstream hStream) { return CUDA_SUCCESS; }
CUresult cuStreamBeginCapture(CUstream hStream, CUstreamCaptureMode mode) {
    capturing = ++captures;
    return CUDA_SUCCESS;
}
CUresult cuStreamEndCapture(CUstream hStream, CUgraph *phGraph) {
    *phGraph = (CUgraph)capturing;
    capturing = 0;
    fake_graphs++;
    return CUDA_SUCCESS;
}
CUresult cuGraphInstantiate(CUgraphExec *phGraphExec, CUgraph hGraph, unsigned long long flags) {
    if (fake_refuses_graphs) return CUDA_ERROR_OUT_OF_MEMORY;
    *phGraphExec = (CUgraphExec)hGraph;
    fake_recorded++;
    return CUDA_SUCCESS;
}
CUresult cuGraphLaunch(CUgraphExec hGraphExec, CUstream hStream) {
    fake_launches++;
    if (fake_on_launch) fake_on_launch((long)hGraphExec);
    return CUDA_SUCCESS;
}
CUresult cuGraphExecDestroy(CUgraphExec hGraphExec) { fake_recorded--; return CUDA_SUCCESS; }
CUresult cuGraphDestroy(CUgraph hGraph) { fake_graphs--; return CUDA_SUCCESS; }
