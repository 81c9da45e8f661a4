# The library MLX, as the imported target `mlx`. IMPETUS_MLX is ON, or the folder `mlx` of PyPI's package
# (include/, lib/, share/cmake), whichever of its builds stands in it: CPU, CUDA and Metal share their headers,
# so one build of this program runs with any of them.
if(IS_DIRECTORY "${IMPETUS_MLX}")
  # Not the package's own config file: that of the CUDA build wants the whole CUDA toolkit, which nothing here
  # compiles with.
  find_library(IMPETUS_MLX_LIBRARY mlx PATHS "${IMPETUS_MLX}/lib" NO_DEFAULT_PATH)
  if(NOT IMPETUS_MLX_LIBRARY OR NOT EXISTS "${IMPETUS_MLX}/include/mlx/version.h")
    message(FATAL_ERROR "IMPETUS_MLX: ${IMPETUS_MLX} has no lib/libmlx and include/mlx. "
      "`scripts/serve --with mlx` fetches them into build/mlx")
  endif()
  add_library(mlx SHARED IMPORTED)
  set_target_properties(mlx PROPERTIES IMPORTED_LOCATION "${IMPETUS_MLX_LIBRARY}"
    INTERFACE_INCLUDE_DIRECTORIES "${IMPETUS_MLX}/include")
else()
  find_package(MLX CONFIG REQUIRED)
endif()
