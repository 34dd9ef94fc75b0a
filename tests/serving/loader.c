/* Loads a SavedModel and runs one signature as model servers do, through TensorFlow's C API.

   loader MODEL CALL ANSWER: CALL holds the number of inputs, then each input: name of the graph's tensor, type, rank,
   sizes, values (strings with their lengths); behind them the name of the output. ANSWER gets its floats.
   All numbers are 64-bit, little-endian; names have their lengths before them. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tensorflow/c/c_api.h"

static void fail(const char* what) {
  fprintf(stderr, "%s\n", what);
  exit(1);
}

static void check(TF_Status* status) {
  if (TF_GetCode(status) != TF_OK) fail(TF_Message(status));
}

static int64_t number(FILE* file) {
  int64_t value;
  if (fread(&value, sizeof value, 1, file) != 1) fail("the call is too short");
  return value;
}

static char* text(FILE* file, size_t* length) {
  *length = (size_t)number(file);
  char* value = malloc(*length + 1);
  if (fread(value, 1, *length, file) != *length) fail("the call is too short");
  value[*length] = 0;
  return value;
}

static TF_Output place(TF_Graph* graph, FILE* file) {
  size_t length;
  char* name = text(file, &length);
  char* colon = strchr(name, ':');
  if (!colon) fail("a tensor's name has no colon");
  *colon = 0;
  TF_Output output = {TF_GraphOperationByName(graph, name), atoi(colon + 1)};
  if (!output.oper) fail(name);
  return output;
}

static TF_Tensor* tensor(FILE* file) {
  TF_DataType type = (TF_DataType)number(file);
  int rank = (int)number(file);
  int64_t sizes[8], count = 1;
  for (int i = 0; i < rank; i++) count *= sizes[i] = number(file);
  size_t size = type == TF_STRING ? sizeof(TF_TString) : TF_DataTypeSize(type);
  TF_Tensor* made = TF_AllocateTensor(type, sizes, rank, size * (size_t)count);
  if (type != TF_STRING) {
    if (fread(TF_TensorData(made), size, (size_t)count, file) != (size_t)count) fail("the call is too short");
    return made;
  }
  TF_TString* strings = TF_TensorData(made);
  for (int64_t i = 0; i < count; i++) {
    size_t length;
    char* value = text(file, &length);
    TF_StringInit(&strings[i]);
    TF_StringCopy(&strings[i], value, length);
    free(value);
  }
  return made;
}

int main(int argc, char** argv) {
  if (argc != 4) fail("loader MODEL CALL ANSWER");
  TF_Status* status = TF_NewStatus();
  TF_Graph* graph = TF_NewGraph();
  TF_SessionOptions* options = TF_NewSessionOptions();
  const char* tags[] = {"serve"};
  TF_Session* session = TF_LoadSessionFromSavedModel(options, NULL, argv[1], tags, 1, graph, NULL, status);
  check(status);
  FILE* call = fopen(argv[2], "rb");
  if (!call) fail("no call");
  int inputs = (int)number(call);
  TF_Output* places = calloc((size_t)inputs, sizeof *places);
  TF_Tensor** values = calloc((size_t)inputs, sizeof *values);
  for (int i = 0; i < inputs; i++) {
    places[i] = place(graph, call);
    values[i] = tensor(call);
  }
  TF_Output output = place(graph, call);
  TF_Tensor* answer = NULL;
  TF_SessionRun(session, NULL, places, values, inputs, &output, &answer, 1, NULL, 0, NULL, status);
  check(status);
  FILE* written = fopen(argv[3], "wb");
  fwrite(TF_TensorData(answer), 1, TF_TensorByteSize(answer), written);
  return fclose(written);
}
